"""Training batches: crops of a data set with only the seen classes labelled, as a function of the step."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets.base import SMALLEST_SIZE, SegDataset
from opentrans_cli.datasets.crops import training_crop
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.options import FinetuneOptions

IGNORED = -1
"""The id of pixels that take no part in training, whatever the data set's own ignore id."""


class TrainingData:
    """The seen part of a data set: its vocabulary, and batches in which unseen classes are ignored.

    Unseen classes are left out of the classifier as well: as classes that are never right they would be pushed away.
    """

    def __init__(self, samples: SegDataset, options: FinetuneOptions, *, preprocess: Preprocess) -> None:
        """Raises OptionError if no class is seen, the data set is empty or the crop is too small."""
        names = samples.vocabulary.names
        seen = [index for index, name in enumerate(names) if name not in samples.unseen]
        if not seen or len(samples) == 0:
            raise OptionError("nothing to train on: no image or no seen class; check --split-list and --hold-out")
        if options.crop is not None and options.crop < SMALLEST_SIZE:
            raise OptionError(f"too small to see anything: --crop {options.crop}; use {SMALLEST_SIZE} or more")
        self.samples, self.options, self.preprocess = samples, options, preprocess
        self.crop = options.crop or samples.default_crop
        self.seen_vocabulary = Vocabulary(tuple(samples.vocabulary.classes[index] for index in seen))
        # Ids of the data set -> ids of the seen vocabulary; everything else is ignored.
        self._lookup = np.full(max(len(names), samples.ignore_index + 1), IGNORED, dtype=np.int64)
        self._lookup[seen] = np.arange(len(seen))
        self._lookup[samples.ignore_index] = IGNORED

    @property
    def fingerprint(self) -> str:
        """What the batches are made of."""
        text = f"{self.samples.fingerprint} {self.crop} {self.seen_vocabulary.names}"
        return hashlib.sha256(text.encode()).hexdigest()

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Normalised images (B, 3, S, S) and label maps int64 (B, S, S): ids of the seen vocabulary or IGNORED."""
        size, seed = self.options.batch_size, self.options.seed
        images, label_maps = [], []
        for slot, index in enumerate(batch_indices(step, count=len(self.samples), batch_size=size, seed=seed)):
            crop, label_map = training_crop(
                self.samples[int(index)],
                size=self.crop,
                seed=seed,
                draw=step * size + slot,
                ignore_index=self.samples.ignore_index,
            )
            images.append(crop)
            label_maps.append(self._lookup[label_map])
        pixels = self.preprocess.normalise(torch.from_numpy(np.stack(images)))
        return pixels, torch.from_numpy(np.stack(label_maps))
