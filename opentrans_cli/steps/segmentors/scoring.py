"""Scoring of a segmentor on labelled images: used for the report of `eval`, and to check a training while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.errors import DataError, PictureError, without_move
from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.steps.segmentors.predictor import Predictor


@dataclass(frozen=True)
class Scored:
    """What was predicted on some images."""

    confusion: ConfusionMatrix
    seconds: tuple[float, ...]  # of each image, without reading the file
    resolution: tuple[int, int]  # height and width to which the first one was resized; zeros without an image
    macs: Mapping[str, int]  # by layer of the segmentor, for the first image; {} if not asked for
    skipped: tuple[str, ...]  # pictures that were left out: which, and what is wrong with them


class Scoring:
    """Compares predictions with label maps, picture by picture."""

    def __init__(
        self, predictor: Predictor, samples: SegDataset, *, counted: bool = False, skip_bad: bool = False
    ) -> None:
        """counted: also count the multiply-accumulates of the first prediction while it is computed.

        skip_bad: leave out pictures that are damaged, smaller than the tower's stride, or do not fit their label maps.
        """
        self._predictor, self._samples, self._counted, self._skip_bad = predictor, samples, counted, skip_bad
        self._confusion = ConfusionMatrix(len(samples.vocabulary), samples.ignore_index)
        self._seconds, self._resolution, self._macs = list[float](), (0, 0), dict[str, int]()
        self._skipped = list[str]()
        self.taken = 0  # samples that were looked at

    def restore(
        self,
        taken: int,
        counts: NDArray[np.int64],
        *,
        skipped: Sequence[str],
        seconds: Sequence[float],
        resolution: Sequence[int],
        macs: Mapping[str, int],
    ) -> None:
        """Go on from what `scored` gave to an earlier process after `taken` samples."""
        self.taken = taken
        self._confusion.counts[:] = counts
        self._skipped = [*skipped]
        self._seconds, self._macs = [*seconds], dict(macs)
        self._resolution = (resolution[0], resolution[1])

    def take(self, row: int) -> None:
        """Compare the prediction for sample `row`, at its own size, with its label map.

        Raises DataError for an image without a label map, and PictureError, which names the file, for one that is
        damaged, smaller than the tower's stride, or does not fit its label map.
        """
        self.taken += 1
        try:
            sample = self._samples[row]
            self._predictor.check_size(sample.image, sample.name)
        except PictureError as error:
            if not self._skip_bad:
                raise
            self._skipped.append(without_move(error))
            return
        if sample.label_map is None:
            raise DataError(f"image has no label map to score against: '{sample.name}'; add it or leave the image out")
        first = not self._seconds
        started = time.perf_counter()
        with self._predictor.counted() if self._counted and first else nullcontext(self._macs) as self._macs:
            prediction = self._predictor.label_map(sample.image)
        seconds = time.perf_counter() - started
        self._confusion.update(prediction.numpy(), sample.label_map)
        self._seconds.append(seconds)
        if first:
            self._resolution = self._predictor.looks_at(sample.image.shape[0], sample.image.shape[1])

    def scored(self) -> Scored:
        """What was found until now."""
        return Scored(self._confusion, tuple(self._seconds), self._resolution, self._macs, tuple(self._skipped))


def score_images(predictor: Predictor, samples: SegDataset, rows: Iterable[int]) -> Scored:
    """Compare the predictions for samples `rows` with their label maps. Raises what `Scoring.take` does."""
    scoring = Scoring(predictor, samples)
    for row in rows:
        scoring.take(row)
    return scoring.scored()
