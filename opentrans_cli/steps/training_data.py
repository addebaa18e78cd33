"""Training batches: crops of a data set where only seen classes are labelled, decided by the number of the step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opentrans_cli.clip.preprocess import Preprocess
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.crop_source import KEPT, Crop, CropMaker, CropSource, CropTask, serve
from opentrans_cli.datasets.crops import ScaleOf
from opentrans_cli.datasets.options import CropOptions
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.datasets.workers import Workers
from opentrans_cli.errors import OptionError
from opentrans_cli.training.processes.distributed import World

IGNORED = -1
"""The id of pixels that take no part in training, whatever the data set's own ignore id."""

MOST_VIEWS = 1 << 26
"""Fixed crops of all images together; their order takes 8 bytes each."""

TrainingBatch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Images float32 (B, 3, S, S), normalised; label maps int64 (B, S, S), ids of the seen vocabulary or IGNORED; numbers
int64 (B,), the number of each crop, which seeds all that is drawn for it; rows int64 (B,), its sample.
"""


def seen_ids(samples: SegDataset) -> list[int]:
    """The ids of the classes that training labels. Raises OptionError if there is none, or no image."""
    names = samples.vocabulary.names
    seen = [index for index, name in enumerate(names) if name not in samples.unseen]
    if not seen or len(samples) == 0:
        raise OptionError("nothing to train on: no image or no seen class; check --split-list and --hold-out")
    return seen


class TrainingData:
    """The seen part of a data set: its vocabulary, and batches in which unseen classes are ignored.

    Unseen classes are not in the classifier either: training would only ever lower their scores.
    The batch of a step depends neither on the number of processes nor on the workers that make its crops ahead.
    """

    def __init__(
        self,
        samples: SegDataset,
        options: CropOptions,
        *,
        preprocess: Preprocess,
        world: World | None = None,
        workers: int = 0,
    ) -> None:
        """Raises OptionError if no class is seen, the data set is empty or an option is invalid."""
        processes = 1 if world is None else world.size
        options.check_shares(processes)
        seen = seen_ids(samples)
        if options.views * len(samples) > MOST_VIEWS:
            raise OptionError(
                f"too many fixed crops: --views {options.views} of {len(samples)} images; "
                f"use at most {MOST_VIEWS // len(samples)}, or 0 for new crops for ever"
            )
        self.samples, self.options, self.preprocess, self.world = samples, options, preprocess, world
        self.crop = options.crop or samples.default_crop
        self.seen_vocabulary = Vocabulary(tuple(samples.vocabulary.classes[index] for index in seen))
        self._source = _source(samples, options, self.crop, seen)
        kept = KEPT // (max(1, workers) * processes)
        self._maker = CropMaker(self._source, limit=kept)
        prepare = partial(serve, self._source, kept)
        self._workers: Workers[Crop] = Workers(workers, prepare=prepare)
        self._ahead: Iterator[list[Crop]] = iter(())
        self._next = -1  # the step whose crops `_ahead` gives next

    @property
    def view_count(self) -> int:
        """The number of different crops; 0 if there are always new ones."""
        return self.options.views * len(self.samples)

    @property
    def content_fingerprint(self) -> str:
        """Fingerprint of the content of crops: images, label maps, seen classes and the side of a crop."""
        text = f"{self.samples.fingerprint} {self.crop} {self.seen_vocabulary.names}"
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """Fingerprint that is equal for equal batches: the content of crops, how they are cut, and their order."""
        o = self.options
        order = f"{o.batch_size} {o.seed} {o.views}"
        text = f"{self.content_fingerprint} {order} {tuple(map(float, o.scale))} {o.scale_of} {bool(o.flip)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def batch(self, step: int) -> TrainingBatch:
        """This process's share of step `step` (from 0).

        With workers the crops of the next steps are started as well, so it is fastest to ask for steps in order;
        another order drops the started crops. Raises DataError for a damaged file, and if a worker is killed.
        """
        numbers, rows = self._chosen(step)
        if self._workers.count == 0:
            crops = [self._maker.make(int(row), int(number)) for row, number in zip(rows, numbers, strict=True)]
        else:
            crops = self._made_ahead(step)
        return self._stacked(crops, numbers, rows)

    def close(self) -> None:
        """Ends the worker processes; they start again when needed."""
        self._ahead, self._next = iter(()), -1
        self._workers.close()

    def _chosen(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sample numbers and rows of this process's share of a step."""
        size, seed, views = self.options.batch_size, self.options.seed, self.options.views
        count = len(self.samples) * max(1, views)
        order = batch_indices(step, count=count, batch_size=size, seed=seed)
        if views:
            numbers, rows = order, order // views
        else:
            numbers, rows = np.arange(step * size, (step + 1) * size, dtype=np.int64), order
        if self.world is None:
            return numbers, rows
        parts = self.options.accumulate
        return self.world.share(numbers, accumulate=parts), self.world.share(rows, accumulate=parts)

    def _made_ahead(self, step: int) -> list[Crop]:
        if step != self._next:
            last = max(step + 1, self.options.steps)
            self._ahead = self._workers.in_order(self._tasks(number) for number in range(step, last))
            self._next = step
        try:
            crops = next(self._ahead)
        except BaseException:
            self._next = -1  # a generator that has raised an error gives no more values
            raise
        self._next = step + 1 if step + 1 < self.options.steps else -1
        return crops

    def _tasks(self, step: int) -> list[CropTask]:
        numbers, rows = self._chosen(step)
        return [CropTask(int(row), int(number)) for row, number in zip(rows, numbers, strict=True)]

    def _stacked(self, crops: list[Crop], numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> TrainingBatch:
        images = self.preprocess.normalise(torch.from_numpy(np.stack([crop.image for crop in crops])))
        label_maps = torch.from_numpy(np.stack([crop.label_map for crop in crops]).astype(np.int64))
        return images, label_maps, torch.from_numpy(np.array(numbers)), torch.from_numpy(np.array(rows))


def _source(samples: SegDataset, options: CropOptions, crop: int, seen: list[int]) -> CropSource:
    # From ids in the data set to class indices of the seen vocabulary; all other ids are ignored.
    ids = np.full(
        max(len(samples.vocabulary), samples.ignore_index + 1), IGNORED, dtype=np.min_scalar_type(-len(seen) - 1)
    )
    ids[seen] = np.arange(len(seen))
    ids[samples.ignore_index] = IGNORED
    scale_of: ScaleOf = "crop" if options.scale_of == "crop" else "image"
    return CropSource(samples, ids, IGNORED, crop, options.seed, options.scale, scale_of, options.flip)
