"""Exact selection of the lowest scores over many layers, without a copy of them.

The bits of floats, read as integers, have the same order as the floats. So the score of a given rank is found digit by
digit, 16 bits at a time: a histogram of the leading digits shows which of them contains the rank, a histogram of the
next digits inside it narrows it further, until all bits are known. Nothing is sorted, and scores are read in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import MaskError, OptionError

Scores = Mapping[str, NDArray[np.floating[Any]]]
Mask = NDArray[np.bool_]

_DIGIT = 16  # bits; a histogram of 65,536 counts fits the caches
_PART = 1 << 18  # entries at a time, few enough that values derived from them stay in the caches
_INTEGER: dict[Any, Any] = {np.dtype(np.float32): np.int32, np.dtype(np.float64): np.int64}


def prunable_total(masks: Mapping[str, Mask]) -> int:
    """Number of weights the masks cover, kept or not."""
    return sum(mask.size for mask in masks.values())


def sparsity_of(masks: Mapping[str, Mask]) -> float:
    """Removed weights / prunable weights, in [0, 1]; 0 if there is no prunable weight."""
    total = prunable_total(masks)
    kept = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    return (total - kept) / total if total else 0.0


class Computed(Mapping[str, Any]):
    """Scores by layer that are computed each time they are needed, so that they need not all exist at once.

    `score` is called a few times for the same layer and must return equal values each time.
    """

    def __init__(self, layers: Iterable[str], score: Callable[[str], Any]) -> None:
        self._layers = dict.fromkeys(layers)
        self._score = score

    def __getitem__(self, layer: str) -> Any:
        if layer not in self._layers:
            raise KeyError(layer)
        return self._score(layer)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


class Pool:
    """The weights that are still kept, to be removed by score from the lowest up.

    `scores` are floats by layer, any shapes: float64 is compared as it is, everything narrower as float32. `inside`
    are the masks of the previous round, which are not changed. Among equal scores (-0.0 equals 0.0) the later layer
    is removed first, and within a layer the later flat index: a larger count removes all that a smaller one does.
    Besides the masks it holds the scores of at most one layer, if they are computed when needed.
    Raises MaskError for NaN scores or masks in `inside` that do not match, naming the layer.
    """

    def __init__(self, scores: Scores, inside: Mapping[str, Mask] | None = None) -> None:
        self.masks: dict[str, Mask] = {}  # True = kept, contiguous
        self.kept: dict[str, int] = {}
        self._scores = scores
        self._dtypes: dict[str, np.dtype[Any]] = {}
        shapes = {layer: self._look(layer) for layer in scores}
        # Masks are allocated only now: between temporary scores they would be scattered over the heap.
        for layer, shape in shapes.items():
            self.masks[layer] = previous_mask(layer, shape, inside)
            self.kept[layer] = int(np.count_nonzero(self.masks[layer]))

    # Functions that read scores handle one layer and return: a variable would keep them while the next layer's are
    # computed.

    def _look(self, layer: str) -> tuple[int, ...]:
        """Check a layer's scores and record how they are compared; return their shape."""
        score = self._scores[layer]
        check_numbers(layer, score)
        self._dtypes[layer] = np.dtype(np.float64 if score.dtype == np.float64 else np.float32)
        return score.shape

    @property
    def sizes(self) -> dict[str, int]:
        """Number of weights by layer, kept or not."""
        return {layer: mask.size for layer, mask in self.masks.items()}

    @property
    def removed(self) -> dict[str, int]:
        """Number of weights removed so far, by layer."""
        return {layer: mask.size - self.kept[layer] for layer, mask in self.masks.items()}

    def surplus(self, sparsity: float) -> int:
        """How many weights must still go for round(sparsity * total) of all layers' weights to be removed.

        round is Python's, so 0.5 goes to the even number. Raises OptionError if more are removed already.
        """
        total, removed = sum(self.sizes.values()), sum(self.removed.values())
        surplus = round(sparsity * total) - removed
        if surplus < 0:
            raise OptionError(
                f"sparsity below what is already pruned: {sparsity}; ask for at least {removed / total:.6f}"
            )
        return surplus

    def remove(self, count: int, layers: Iterable[str] | None = None) -> None:
        """Clear the `count` lowest-scored entries of `masks` in `layers` (None: in all), in place.

        0 <= count <= entries still kept there.
        """
        chosen = tuple(self.masks if layers is None else layers)
        if count == 0:
            return
        dtype = max((self._dtypes[layer] for layer in chosen), key=lambda found: found.itemsize)
        level, last, equal = self._threshold(chosen, dtype, count)
        for layer in chosen:
            self._cut(layer, dtype, level, equals=last == equal)
        left = last if last < equal else 0
        for layer in reversed(chosen):
            if left == 0:
                break
            left -= self._cut_last(layer, dtype, level, left)
        for layer in chosen:
            self.kept[layer] = int(np.count_nonzero(self.masks[layer]))

    def _threshold(self, layers: tuple[str, ...], dtype: np.dtype[Any], rank: int) -> tuple[float, int, int]:
        """The score of a rank (1 = lowest) among the kept ones, the rank among equal scores, and their number."""
        key, equal = None, 0
        for shift in reversed(range(0, 8 * dtype.itemsize, _DIGIT)):
            histogram = np.zeros(1 << _DIGIT, np.int64)
            for layer in layers:
                self._count(layer, dtype, shift, key, histogram)
            upto = histogram.cumsum()
            digit = int(np.searchsorted(upto, rank))
            equal = int(histogram[digit])
            rank -= int(upto[digit]) - equal
            # The leading digit carries the sign: it was shifted by half the digits to count from zero.
            key = digit - (1 << _DIGIT - 1) if key is None else (key << _DIGIT) + digit
        assert key is not None
        return _from_key(key, dtype), rank, equal

    def _count(
        self, layer: str, dtype: np.dtype[Any], shift: int, leading: int | None, histogram: NDArray[np.int64]
    ) -> None:
        """Add a layer's counts of the digit above `shift`, over the kept entries whose digits before are `leading`."""
        removed = self.masks[layer].size > self.kept[layer]
        for score, mask in self._parts(layer, dtype):
            keys = _keys(score)
            if leading is None:
                digits = (keys[mask] if removed else keys) >> shift
                digits += 1 << _DIGIT - 1
            else:
                chosen = keys >> shift + _DIGIT == leading
                digits = keys[chosen & mask if removed else chosen] >> shift & (1 << _DIGIT) - 1
            histogram += np.bincount(digits, minlength=1 << _DIGIT)

    def _cut(self, layer: str, dtype: np.dtype[Any], level: float, *, equals: bool) -> None:
        """Remove a layer's entries below `level`, and those at it if `equals`."""
        for score, mask in self._parts(layer, dtype):
            mask &= score > level if equals else score >= level

    def _cut_last(self, layer: str, dtype: np.dtype[Any], level: float, count: int) -> int:
        """Remove the last `count` of a layer's kept entries at `level`, or all if fewer; return their number."""
        left = count
        for score, mask in reversed(list(self._parts(layer, None))):
            if left == 0:
                break
            ties = (mask & (score.astype(dtype) == level)).nonzero()[0]
            mask[ties[max(0, len(ties) - left) :]] = False
            left -= min(left, len(ties))
        return count - left

    def _parts(self, layer: str, dtype: np.dtype[Any] | None) -> Iterator[tuple[NDArray[Any], Mask]]:
        """A layer's scores and masks in flat parts, the masks as views; scores in `dtype`, None: in their own."""
        scores, mask = self._scores[layer].reshape(-1), self.masks[layer].reshape(-1)
        for start in range(0, len(scores), _PART):
            score = scores[start : start + _PART]
            yield score if dtype is None else score.astype(dtype, copy=False), mask[start : start + _PART]


def check_numbers(layer: str, score: NDArray[Any]) -> None:
    """Raise MaskError naming the layer if a score is NaN."""
    # The maximum is NaN if any entry is, and takes half the time of checking every entry.
    if score.size and np.isnan(score.max()):
        raise MaskError(f"importance is NaN: {layer}; check the weights it was computed from")


def previous_mask(layer: str, shape: tuple[int, ...], inside: Mapping[str, Mask] | None) -> Mask:
    """A fresh contiguous mask of this shape to cut from: that of the previous round, or all True.

    Raises MaskError if `inside` lacks the layer or has another shape.
    """
    if inside is None:
        return np.ones(shape, np.bool_)
    if layer not in inside:
        raise MaskError(f"no mask of the previous round: {layer}; give one for every scored layer")
    if inside[layer].shape != shape:
        raise MaskError(
            f"mask and scores differ in shape: {layer}, {inside[layer].shape} and {shape}; "
            "use the masks of the same architecture"
        )
    return np.array(inside[layer], np.bool_, order="C")


def _keys(score: NDArray[Any]) -> NDArray[Any]:
    """Integers in the same order as the scores, int32 for float32 and int64 for float64; (n,) -> (n,)."""
    keys = score.view(_INTEGER[score.dtype])
    if not len(keys) or keys.min() >= 0:
        return keys
    # Floats are sign and magnitude, so negative ones must be reversed; -0.0 becomes 0.
    signs = keys >> 8 * keys.itemsize - 1
    return ((keys & np.iinfo(keys.dtype).max) ^ signs) - signs


def _from_key(key: int, dtype: np.dtype[Any]) -> float:
    """The score with this key."""
    integer = _INTEGER[dtype]
    bits = key if key >= 0 else int(np.iinfo(integer).min) - key
    return float(np.array(bits, integer).view(dtype))
