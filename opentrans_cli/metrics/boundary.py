"""Boundary IoU: the IoU of the pixels of each class that lie near its contour (Cheng et al. 2021, arXiv 2103.16562)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.metrics.miou import Absent, MiouResult, mean_iou, mean_of

DILATION_RATIO = 0.02
"""How near, as a share of the image's diagonal: detectron2's, and the paper's for COCO and LVIS."""


class BoundaryMatrix:
    """Counts as in ConfusionMatrix, in which each map has its pixels near a contour alone; any number of classes.

    `confusion` has one more class, the last: the inside of all regions, which has no score. A pixel is near a contour
    if another class, or the end of the image, is in the square of the distance around it. What is unlabelled belongs to
    no class in both maps, and is not counted.
    """

    def __init__(self, num_classes: int, ignore_index: int) -> None:
        self._inside, self._ignore_index = num_classes, ignore_index
        self._outside = num_classes + 1
        self.confusion = ConfusionMatrix(num_classes + 1, self._outside)
        self.classes = range(num_classes)

    def update(self, prediction: NDArray[np.integer], label: NDArray[np.integer]) -> None:
        """Add one image that a ConfusionMatrix has accepted: predicted classes and label map, both (H, W)."""
        unlabelled = label == self._ignore_index
        distance = max(1, round(DILATION_RATIO * math.hypot(*label.shape)))
        maps = []
        for ids in (prediction, label):
            known = np.where(unlabelled, self._outside, np.minimum(ids.astype(np.int32), self._outside))
            kept = near_contour(known, distance) & (known < self._inside)
            maps.append(np.where(kept, known, self._inside))
        self.confusion.update(maps[0], np.where(unlabelled, self._outside, maps[1]))


@dataclass(frozen=True)
class BoundaryScores:
    """Fractions in [0, 1]; None where there is no value."""

    miou: float | None  # mean of the boundary IoU over classes
    min_miou: float | None  # mean over classes of the smaller one of IoU and boundary IoU
    per_class: tuple[float | None, ...]  # boundary IoU


def boundary_iou(boundary: BoundaryMatrix, whole: MiouResult, *, absent: Absent = "exclude") -> BoundaryScores:
    """The scores near contours; `whole`: those of the same pictures in all pixels, by the same rule.

    Far from contours a boundary IoU does not see large regions that are wrong inside, so the smaller one of both is
    told as well, as the paper does for its averages.
    """
    near = mean_iou(boundary.confusion, boundary.classes, absent=absent)
    pairs = zip(whole.per_class, near.per_class, strict=True)
    smaller = [None if iou is None or edge is None else min(iou, edge) for iou, edge in pairs]
    return BoundaryScores(near.miou, mean_of(smaller), near.per_class)


def near_contour(ids: NDArray[np.integer], distance: int) -> NDArray[np.bool_]:
    """Which pixels of a map (H, W) are not in the middle of a square of equal ids, of side 2 distance + 1, inside it.

    Those are the pixels that `distance` erosions by 3 x 3 remove from the mask of their class.
    """
    along_rows = _changes_within(ids, distance, axis=1)
    return _any_within(along_rows, distance) | _changes_within(ids, distance, axis=0)


def _changes_within(ids: NDArray[np.integer], distance: int, *, axis: int) -> NDArray[np.bool_]:
    """Whether an id differs from its neighbour, or the map ends, up to `distance` before or behind on the axis."""
    size = ids.shape[axis]
    ends = [(0, 0), (0, 0)]
    ends[axis] = (1, 1)
    changes = np.pad(np.diff(ids, axis=axis) != 0, ends, constant_values=True)  # entry i: between pixels i - 1 and i
    return _sums(changes, np.arange(size) - distance + 1, np.arange(size) + distance + 1, axis) > 0


def _any_within(marked: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """Whether a pixel up to `distance` above or below is marked."""
    rows = np.arange(marked.shape[0])
    return _sums(marked, rows - distance, rows + distance + 1, 0) > 0


def _sums(marked: NDArray[np.bool_], first: NDArray[np.intp], end: NDArray[np.intp], axis: int) -> NDArray[np.int32]:
    """Number of marked entries from `first` to before `end` on the axis, where they exist."""
    size = marked.shape[axis]
    before = [(0, 0), (0, 0)]
    before[axis] = (1, 0)
    totals = np.pad(np.cumsum(marked, axis=axis, dtype=np.int32), before)
    return totals.take(end.clip(0, size), axis=axis) - totals.take(first.clip(0, size), axis=axis)
