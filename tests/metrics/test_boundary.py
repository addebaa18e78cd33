"""Boundary IoU against its definition: masks of one class, eroded pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from opentrans_cli.metrics.boundary import BoundaryMatrix, near_contour
from opentrans_cli.metrics.miou import mean_iou

IDS = NDArray[np.integer]


def slow_boundary(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """The mask without what is left after `times` erosions by 3 x 3; outside the image nothing is set."""
    eroded = mask.copy()
    for _ in range(times):
        padded = np.pad(eroded, 1)
        parts = [padded[y : y + mask.shape[0], x : x + mask.shape[1]] for y in range(3) for x in range(3)]
        eroded = np.logical_and.reduce(parts)
    return mask & ~eroded


def regions(rng: np.random.Generator, size: tuple[int, int], classes: int) -> IDS:
    """Rectangles of classes over each other."""
    ids = np.zeros(size, np.int64)
    for _ in range(6):
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        height, width = rng.integers(1, size[0] + 1), rng.integers(1, size[1] + 1)
        ids[top : top + height, left : left + width] = rng.integers(0, classes)
    return ids


@pytest.mark.parametrize("distance", [1, 2, 5, 40])
def test_pixels_near_a_contour_are_those_that_erosions_remove(distance: int) -> None:
    rng = np.random.default_rng(distance)
    for size in ((1, 1), (1, 9), (17, 30), (30, 12)):
        ids = regions(rng, size, 4)
        expected = np.zeros(size, bool)
        for number in range(4):
            expected |= slow_boundary(ids == number, distance)
        assert np.array_equal(near_contour(ids, distance), expected)


@pytest.mark.parametrize("classes", [5, 300])
def test_boundary_iou_equals_its_definition_class_by_class(classes: int) -> None:
    """Unlabelled pixels are taken out of both maps first. One prediction names no class in places."""
    rng = np.random.default_rng(classes)
    none, boundary = 65535, BoundaryMatrix(classes, 65535)
    both, either = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
    for size in ((60, 80), (120, 70), (20, 20)):
        label, prediction = regions(rng, size, classes), regions(rng, size, classes)
        prediction = np.where(rng.random(size) < 0.9, np.where(rng.random() < 0.5, label, prediction), prediction)
        label[5:9, 3:12], prediction[10:12, :6] = none, none
        boundary.update(prediction.astype(np.uint16), label.astype(np.uint16))
        times = max(1, round(0.02 * math.sqrt(size[0] ** 2 + size[1] ** 2)))
        for number in np.unique(np.concatenate([label, prediction], 0)):
            if number != none:
                true = slow_boundary(label == number, times)
                found = slow_boundary((prediction == number) & (label != none), times)
                both[number] += (true & found).sum()
                either[number] += (true | found).sum()
    expected = [float(b / e) if e else None for b, e in zip(both, either, strict=True)]
    result = mean_iou(boundary.confusion, boundary.classes, absent="zero")
    assert result.per_class == pytest.approx(expected, abs=1e-12) and result.miou is not None and 0 < result.miou < 1
