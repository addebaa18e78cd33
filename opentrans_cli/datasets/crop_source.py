"""Training crops of a data set by sample and number, in this process or in workers, with samples kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import Sample, SegDataset
from opentrans_cli.datasets.crops import ScaleOf, training_crop
from opentrans_cli.errors import DataError

KEPT = 512 << 20
"""Bytes of decoded samples that all processes of one source keep together."""


class Crop(NamedTuple):
    """One training crop."""

    image: NDArray[np.uint8]  # (S, S, 3) RGB
    label_map: NDArray[Any]  # (S, S), in the dtype of the ids


class Labelled(NamedTuple):
    """A sample as it is kept in memory: with the ids of crops, in the smallest dtype that holds them."""

    name: str
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label_map: NDArray[Any]  # (H, W)


@dataclass(frozen=True, eq=False)
class CropSource:
    """How crops are made. Images are read when they are asked for."""

    samples: SegDataset
    ids: NDArray[Any]  # id of the data set -> id in crops
    ignored: int  # id of padding
    size: int
    seed: int
    scale: tuple[float, float]
    scale_of: ScaleOf
    flip: bool

    def read(self, row: int) -> Labelled:
        """Sample `row`. Raises DataError for a damaged file or a missing label map."""
        sample = self.samples[row]
        if sample.label_map is None:
            raise DataError(
                f"image has no label map: '{sample.name}'; training needs one, add it or leave the image out"
            )
        return Labelled(sample.name, sample.image, self.ids[sample.label_map])

    def crop(self, sample: Labelled, number: int) -> Crop:
        """Crop `number`, of `sample`."""
        square, labels = training_crop(
            Sample(sample.image, sample.label_map.astype(np.int64), sample.name),
            size=self.size,
            seed=self.seed,
            number=number,
            ignore_index=self.ignored,
            flip=self.flip,
            scale=self.scale,
            scale_of=self.scale_of,
        )
        return Crop(square, labels.astype(self.ids.dtype))


class CropMaker:
    """Crops of a source, with as many samples kept as fit into `limit` bytes.

    The first samples stay in memory. Every epoch visits all samples in a new order, so the latest sample comes again
    last, and replacing old samples by new ones would not help.
    """

    def __init__(self, source: CropSource, *, limit: int = KEPT) -> None:
        self.source = source
        self._kept: dict[int, Labelled] = {}
        self._room = limit

    def make(self, row: int, number: int) -> Crop:
        """Crop `number`, of sample `row`. Raises DataError for a damaged file."""
        sample = self._kept.get(row)
        if sample is None:
            sample = self.source.read(row)
            needed = sample.image.nbytes + sample.label_map.nbytes
            if needed <= self._room:
                self._kept[row] = sample
                self._room -= needed
        return self.source.crop(sample, number)


_makers: list[CropMaker] = []  # in a worker process: the source that it serves


def serve(source: CropSource, limit: int) -> None:
    """Prepare this process to run `CropTask`s of `source`."""
    _makers[:] = [CropMaker(source, limit=limit)]


class CropTask(NamedTuple):
    """One crop to make, in a process that serves its source."""

    row: int
    number: int

    def run(self) -> Crop:
        """The crop."""
        return _makers[0].make(self.row, self.number)
