"""Embeddings of labelled regions from a frozen copy of the dense tower, the teacher in two losses."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import embed_words
from opentrans_cli.datasets.images import resize_image
from opentrans_cli.distill.regions import region_pictures
from opentrans_cli.errors import DataError
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.training_data import TrainingData

MOST_REGIONS = 200
"""Regions of a batch that take part; of more, a random choice (OpenTrans, as published)."""

MOST_KEPT = 2**18
"""Region embeddings kept in memory: 1 GiB at 1024 dimensions."""

_CHUNK = 64  # number of pictures in one call of the teacher

EmbedNames = Callable[[Sequence[str]], Tensor]
"""C names -> text embeddings (C, D), float32, rows of length 1."""


def raw_names(clip: LoadedClip, reporter: Reporter = SILENT) -> EmbedNames:
    """Text embeddings of bare class names, without a template, as the paper uses them for its affinities."""
    return partial(embed_words, clip, templates=("{}",), reporter=reporter)


class RegionTeacher:
    """Embeddings of regions from a frozen copy of `visual` as it is now, on its device; computed once, then kept.

    The regions of one image go through the tower together, without those of other images. The result thus depends only
    on the image and not on the order in which a run, or a resumed run, reads the images.
    """

    def __init__(self, visual: nn.Module, loader: TrainingData, *, limit: int = MOST_KEPT) -> None:
        """`limit`: number of regions kept; above it the images that were used least recently are dropped."""
        self._visual = copy.deepcopy(visual).eval().requires_grad_(False)
        self._device = next(visual.parameters()).device
        self._loader, self._limit, self._kept = loader, limit, 0
        self._images: OrderedDict[int, tuple[Tensor, Tensor]] = OrderedDict()
        samples = loader.samples
        seen = [index for index, name in enumerate(samples.vocabulary.names) if name not in samples.unseen]
        self._seen = np.array(seen, dtype=np.int64)  # class index in the seen vocabulary -> id in the data set

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """Of sample `index`: its seen classes, int64 (R,), ascending, and float32 (R, D), rows of length 1; on the CPU.

        Raises DataError for a sample without a label map.
        """
        if index not in self._images:
            self._images[index] = self._embedded(index)
            self._kept += len(self._images[index][0])
        self._images.move_to_end(index)
        while self._kept > self._limit and len(self._images) > 1:
            self._kept -= len(self._images.popitem(last=False)[1][0])
        return self._images[index]

    @torch.no_grad()
    def _embedded(self, index: int) -> tuple[Tensor, Tensor]:
        sample, preprocess = self._loader.samples[index], self._loader.preprocess
        if sample.label_map is None:
            raise DataError(
                f"image has no label map: '{sample.name}'; text-guided distillation needs one, use --distill image"
            )
        present = np.unique(sample.label_map)
        present = present[np.isin(present, self._seen) & (present != self._loader.samples.ignore_index)]
        pictures = region_pictures(sample.image, sample.label_map, present, size=preprocess.size, resize=resize_image)
        # Targets keep full precision under the caller's autocast: they are computed once and used in every step.
        with torch.autocast(self._device.type, enabled=False):
            parts = [
                F.normalize(self._visual(preprocess.normalise(part.to(self._device))), dim=1).cpu()
                for part in torch.from_numpy(pictures).split(_CHUNK)
                if len(part)
            ]
        rows = torch.cat(parts) if parts else torch.zeros(0, 0)
        return torch.from_numpy(np.searchsorted(self._seen, present)), rows
