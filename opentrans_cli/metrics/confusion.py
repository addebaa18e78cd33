"""Counts of (true class, predicted class) over pixels; every mIoU figure follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import DataError

_T = TypeVar("_T", bound=np.generic)

_BLOCK = 1 << 16
"""Pixels that are counted at a time, so few that everything about them stays in the processor's cache."""

_RUNS = 4
"""Runs of equal pairs are counted, not pixels, where they are so many pixels long on average."""


class ConfusionMatrix:
    """Pixel counts of a whole data set.

    `counts` is int64 (num_classes + 1, num_classes + 1): row = class in the label map, column = predicted class. The
    last row has the pixels labelled `ignore_index`, which enter no score, and the last column those for which the
    prediction names no class but `ignore_index`. Matrices of parts of a data set may be added.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        """Raises ValueError if `ignore_index` is a class."""
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"id {ignore_index} cannot be both a class and ignored")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        # The widest pair of ids is the last count; narrow numbers are combined faster.
        self._pair = np.min_scalar_type(self.counts.size - 1)
        self._limit = np.full(_BLOCK, num_classes, self._pair)

    @property
    def correct(self) -> NDArray[np.int64]:
        """Pixels (num_classes,) of each class that are predicted as this class."""
        return self.counts.diagonal()[:-1]

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Pixels (num_classes,) of each class in the label maps."""
        return self.counts[:-1].sum(axis=1)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Pixels (num_classes,) predicted as each class, without those that are ignored."""
        return self.counts[:-1, :-1].sum(axis=0)

    @property
    def ignored(self) -> int:
        """Pixels labelled `ignore_index`."""
        return int(self.counts[-1].sum())

    def update(self, prediction: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Add one image: predicted classes and label map, both (H, W), any integer dtype; narrow ones are faster.

        On a counted pixel `ignore_index` is a prediction of no class. On an ignored one the prediction may be anything.
        Raises DataError if the sizes differ or the label map holds ids that are neither a class nor `ignore_index`,
        ValueError if a prediction on a counted pixel is neither. Then nothing has been counted.
        """
        if prediction.shape != label.shape:
            raise DataError(
                f"label map and prediction differ in size: {_size(label)} and {_size(prediction)}; "
                "resize the class scores to the label map before taking the best class"
            )
        predicted_P, true_P = prediction.reshape(-1), label.reshape(-1)
        counts = self.counts.reshape(-1)
        if predicted_P.dtype == true_P.dtype == np.uint8 and true_P.size >= _BLOCK:
            # Of ids of 8 bits all pairs fit into a small table, so each pair is looked at once, not each pixel.
            found = np.zeros(1 << 16, np.int64)
            _count(true_P.astype(np.uint16) << np.uint16(8) | predicted_P, found)
            there = np.flatnonzero(found)
            ids = there.astype(np.uint16)
            places = self._pairs((ids & np.uint16(255)).astype(np.uint8), (ids >> np.uint16(8)).astype(np.uint8))
            np.add.at(counts, places.astype(np.intp), found[there])
            return
        pairs = self._pairs(predicted_P, true_P)
        if counts.size <= pairs.size < 1 << 31:
            # Numbers of 32 bits take half of the cache, which decides the speed where classes are many.
            found = np.zeros(counts.size, np.int32)
            _count(pairs, found)
            counts += found
        else:
            _count(pairs, counts)

    def _pairs(self, predicted_P: NDArray[np.integer], true_P: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """The place in the counts of each pixel. Raises as `update` does."""
        pairs = np.empty(true_P.size, self._pair)
        for part, predicted, true in zip(_blocks(pairs), _blocks(predicted_P), _blocks(true_P), strict=True):
            row, column = self._line(true), self._line(predicted)
            out = row == self.num_classes
            if np.count_nonzero(out) > np.count_nonzero(true == self.ignore_index):
                raise self._foreign(true_P)
            nothing = (column == self.num_classes) & ~out
            if nothing.any() and (predicted[nothing] != self.ignore_index).any():
                raise ValueError(f"predicted classes must lie in [0, {self.num_classes})")
            np.multiply(row, self._pair.type(self.num_classes + 1), out=part)
            part += column
        return pairs

    def _line(self, ids: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
        """The row or column of each id: itself, or the last one for all that are no class."""
        if ids.dtype.kind != "u":
            ids = ids.astype(np.int64, copy=False).view(np.uint64)  # so that a negative id lies behind all classes
        return np.minimum(ids, self._limit[: ids.size]).astype(self._pair, copy=False)

    def _foreign(self, true_P: NDArray[np.integer]) -> DataError:
        ids = [i for i in np.unique(true_P).tolist() if not 0 <= i < self.num_classes and i != self.ignore_index]
        shown = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
        return DataError(
            f"label ids outside the class list: {shown} (classes are 0 to {self.num_classes - 1}, "
            f"{self.ignore_index} is ignored); check the class list and the encoding of the label maps"
        )


def _count(pairs: NDArray[np.integer], found: NDArray[np.signedinteger]) -> None:
    """Add to `found` how often each number occurs in `pairs`."""
    for part in _blocks(pairs):
        changes = part[1:] != part[:-1]
        if np.count_nonzero(changes) * _RUNS < part.size:
            ends = np.append(np.flatnonzero(changes), part.size - 1)
            np.add.at(found, part[ends].astype(np.intp), np.diff(ends, prepend=-1).astype(found.dtype))
        else:
            np.add.at(found, part.astype(np.intp), found.dtype.type(1))


def _blocks(pixels: NDArray[_T]) -> Iterator[NDArray[_T]]:
    return (pixels[start : start + _BLOCK] for start in range(0, pixels.size, _BLOCK))


def _size(label_map: NDArray[np.integer]) -> str:
    return " x ".join(map(str, label_map.shape))
