"""Scoring of a segmentor on labelled images: used for the report of `eval`, and to check a training while it runs."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.errors import DataError, PictureError, without_move
from opentrans_cli.metrics.boundary import BoundaryMatrix
from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.steps.flow import Flow
from opentrans_cli.steps.segmentors.predictor import Predictor, Prepared, Queries, narrowest
from opentrans_cli.steps.segmentors.tally import FirstPicture, Tally
from opentrans_cli.steps.shared_options import Reading

PIXELS = "pixels"
"""The counts of a tally that are those of a ConfusionMatrix."""

CONTOURS = "contours"
"""The counts of a tally that are those of a BoundaryMatrix; not there unless asked for."""


class ScoredBeside(Protocol):
    """What is scored of pictures beside their label maps, from the queries of a framework of masks."""

    def start_from(self, tally: Tally) -> None:
        """Go on from what was found on other rows."""

    def truth(self, row: int) -> Any:
        """What has to be read about a sample. Any thread may do that."""

    def take(self, row: int, truth: Any, queries: Queries) -> None:
        """Score what is found in the queries of a sample."""

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """What was counted until now, for a tally."""


@dataclass(frozen=True, eq=False)
class ToScore:
    """A picture that is ready for the model, and the truth about it."""

    row: int
    prepared: Prepared
    label_map: NDArray[np.integer]  # (H, W), class indices or the data set's ignore_index
    beside: Any = None  # what a `ScoredBeside` has read


@dataclass(frozen=True)
class Skipped:
    """A picture that cannot be scored."""

    row: int
    why: str  # which picture it is, and what is wrong with it


@dataclass(frozen=True)
class _Read:
    """Reads one sample and prepares it for the model."""

    samples: SegDataset
    predictor: Predictor
    row: int
    skip_bad: bool
    beside: ScoredBeside | None

    def run(self) -> ToScore | Skipped:
        try:
            sample = self.samples[self.row]
            prepared = self.predictor.prepared(sample.image, sample.name)
            beside = None if self.beside is None else self.beside.truth(self.row)
        except PictureError as error:
            if not self.skip_bad:
                raise
            return Skipped(self.row, without_move(error))
        if sample.label_map is None:
            raise DataError(f"image has no label map to score against: '{sample.name}'; add it or leave the image out")
        largest = max(self.samples.ignore_index, len(self.samples.vocabulary) - 1)
        fits = sample.label_map.min() >= 0 and sample.label_map.max() <= largest  # others are refused when they count
        label_map = narrowest(sample.label_map, largest) if fits else sample.label_map
        return ToScore(self.row, prepared, label_map, beside)


class Scoring:
    """Compares predictions with label maps, picture by picture: the next ones are read, and the last one is counted,
    while the model works.
    """

    def __init__(
        self,
        predictor: Predictor,
        samples: SegDataset,
        flow: Flow[ToScore | Skipped],
        *,
        counted: bool = False,
        skip_bad: bool = False,
        boundary: bool = False,
        beside: ScoredBeside | None = None,
    ) -> None:
        """counted: also count the multiply-accumulates of the first prediction while it is computed.

        skip_bad: leave out pictures that are damaged, smaller than the tower's stride, or do not fit their label maps.
        boundary: also count the pixels near contours by themselves.
        """
        self._predictor, self._samples, self._flow = predictor, samples, flow
        self._counted, self._skip_bad, self._beside = counted, skip_bad, beside
        self._tally = Tally()
        self._confusion = ConfusionMatrix(len(samples.vocabulary), samples.ignore_index)
        self._boundary = BoundaryMatrix(len(samples.vocabulary), samples.ignore_index) if boundary else None

    def start_from(self, tally: Tally) -> None:
        """Go on from what was found on other rows, in place of what was found until now."""
        self._flow.settle()
        self._tally = tally
        self._confusion.counts[:] = tally.counts[PIXELS]
        if self._boundary is not None:
            self._boundary.confusion.counts[:] = tally.counts[CONTOURS]
        if self._beside is not None:
            self._beside.start_from(tally)

    def over(self, rows: Sequence[int]) -> Generator[int, None, None]:
        """Compare the predictions for samples `rows`, at their own size, with their label maps; yields each row.

        Raises DataError for an image without a label map, and PictureError, which names the file, for one that is
        damaged, smaller than the tower's stride, or does not fit its label map.
        """
        tasks = (_Read(self._samples, self._predictor, row, self._skip_bad, self._beside) for row in rows)
        with closing(self._flow.ahead(tasks)) as pictures:
            for picture in pictures:
                if isinstance(picture, Skipped):
                    self._tally.skipped[picture.row] = picture.why
                else:
                    self._take(picture)
                yield picture.row

    def _take(self, picture: ToScore) -> None:
        first = self._tally.first is None
        started = time.perf_counter()
        with self._predictor.counted() if self._counted and first else nullcontext(dict[str, int]()) as macs:
            queries = None if self._beside is None else self._predictor.queries(picture.prepared)
            prediction = self._predictor.label_map(picture.prepared, queries)
        seconds = time.perf_counter() - started
        if first:
            self._tally.first = FirstPicture(picture.row, self._predictor.looks_at(*picture.prepared.shape), macs)
        self._flow.behind(partial(self._count, picture, prediction, queries, seconds))

    def _count(
        self, picture: ToScore, prediction: NDArray[np.integer], queries: Queries | None, seconds: float
    ) -> None:
        self._confusion.update(prediction, picture.label_map)
        if self._boundary is not None:
            self._boundary.update(prediction, picture.label_map)
        if self._beside is not None and queries is not None:
            self._beside.take(picture.row, picture.beside, queries)
        self._tally.seconds[picture.row] = seconds

    def tally(self) -> Tally:
        """What was found until now."""
        self._flow.settle()
        self._tally.counts = {PIXELS: self._confusion.counts}
        if self._boundary is not None:
            self._tally.counts[CONTOURS] = self._boundary.confusion.counts
        if self._beside is not None:
            self._tally.counts |= self._beside.counts()
        return self._tally


def confusion_of(tally: Tally, samples: SegDataset) -> ConfusionMatrix:
    """The confusion matrix in a tally of pictures of `samples`."""
    confusion = ConfusionMatrix(len(samples.vocabulary), samples.ignore_index)
    confusion.counts[:] = tally.counts[PIXELS]
    return confusion


def boundary_of(tally: Tally, samples: SegDataset) -> BoundaryMatrix | None:
    """The counts near contours in such a tally, if they were asked for."""
    if CONTOURS not in tally.counts:
        return None
    boundary = BoundaryMatrix(len(samples.vocabulary), samples.ignore_index)
    boundary.confusion.counts[:] = tally.counts[CONTOURS]
    return boundary


def score_images(predictor: Predictor, samples: SegDataset, rows: Sequence[int]) -> Tally:
    """Compare the predictions for samples `rows` with their label maps. Raises what `Scoring.over` does."""
    with Flow[ToScore | Skipped](Reading().workers) as flow:
        scoring = Scoring(predictor, samples, flow)
        for _ in scoring.over(rows):
            pass
        return scoring.tally()
