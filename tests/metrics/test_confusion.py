"""Confusion counts against one pixel at a time."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from opentrans_cli.errors import DataError
from opentrans_cli.metrics import confusion as module
from opentrans_cli.metrics.confusion import ConfusionMatrix

IDS = NDArray[np.integer]


def slow_counts(prediction: IDS, label: IDS, classes: int, ignore: int) -> list[list[int]]:
    counts = [[0] * (classes + 1) for _ in range(classes + 1)]
    for true, predicted in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        row = classes if true == ignore else true
        counts[row][predicted if 0 <= predicted < classes else classes] += 1
    return counts


def label_maps(rng: np.random.Generator, classes: int, ignore: int, size: tuple[int, int], run: int) -> tuple[IDS, IDS]:
    """A prediction and a label map of ids in runs of about `run` pixels, with ignored pixels."""
    prediction, label = rng.integers(0, classes, (2, *size))
    prediction, label = prediction.repeat(run, 1)[:, : size[1]], label.repeat(run, 1)[:, : size[1]]
    label = np.where(rng.random(size) < 0.2, ignore, label)
    return np.where(label == ignore, 7, prediction), label  # what is said of an ignored pixel enters no score


@pytest.mark.parametrize("run", [1, 9])
@pytest.mark.parametrize(("classes", "ignore"), [(5, 255), (255, 255), (300, 65535), (70000, -1)])
def test_counts_equal_the_per_pixel_version_and_add_up_over_images(
    monkeypatch: pytest.MonkeyPatch, classes: int, ignore: int, run: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 64)
    if classes > 65536:  # too many for a table of all pairs, but ids of 17 bits in one of a thousand classes
        classes = 1000
    rng = np.random.default_rng(classes + run)
    confusion, expected = ConfusionMatrix(classes, ignore), np.zeros((classes + 1, classes + 1), np.int64)
    for size in ((7, 90), (1, 1), (12, 4), (8, 8), (40, 60)):
        prediction, label = label_maps(rng, classes, ignore, size, run)
        counts = np.array(slow_counts(prediction, label, classes, ignore))
        narrow = np.uint8 if max(classes, ignore) < 256 else np.uint16
        dtypes = [np.int64, np.int32] + [narrow] * (ignore >= 0)
        for of_prediction, of_label in product(dtypes, repeat=2):
            confusion.update(prediction.astype(of_prediction), label.astype(of_label))
            expected += counts
    assert np.array_equal(confusion.counts, expected) and confusion.counts.dtype == np.int64
    assert confusion.labelled.tolist() == expected[:-1].sum(1).tolist() and confusion.ignored == expected[-1].sum()
    assert confusion.correct.tolist() == [expected[c, c] for c in range(classes)]
    assert confusion.predicted.tolist() == expected[:-1].sum(0)[:-1].tolist()


def test_a_prediction_of_the_ignored_id_is_no_class() -> None:
    confusion = ConfusionMatrix(2, 255)
    confusion.update(np.array([[255, 0, 255]], np.uint8), np.array([[0, 0, 255]], np.uint8))
    assert confusion.labelled.tolist() == [2, 0] and confusion.predicted.tolist() == [1, 0] and confusion.ignored == 1


@pytest.mark.parametrize("block", [1, 1 << 16])
def test_what_cannot_be_counted_is_refused_by_name_and_nothing_is_counted(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    confusion, many = ConfusionMatrix(3, 255), np.arange(50)[None]
    foreign = np.array([[0, 7, 254, 255, 7, -1]])
    zeros = np.zeros((2, 3), np.int64)
    for prediction, label, error, message in (
        (foreign * 0, foreign, DataError, r"outside the class list: -1, 7, 254 \(classes are 0 to 2, 255 is"),
        (many * 0, many, DataError, r"list: 3, 4, 5, 6, 7, \.\.\. \("),
        (zeros, np.zeros((4, 6), np.int64), DataError, "differ in size: 4 x 6 and 2 x 3;"),
        (many.astype(np.uint8) * 0, many.astype(np.uint8), DataError, r"list: 3, 4, 5, 6, 7, \.\.\. \("),
        (zeros.astype(np.uint8) + 3, zeros.astype(np.uint8), ValueError, r"\[0, 3\)"),
        (zeros - 1, zeros, ValueError, r"\[0, 3\)"),
        (zeros + 3, zeros, ValueError, r"\[0, 3\)"),
        ((zeros - 100).astype(np.int8), zeros, ValueError, r"\[0, 3\)"),
    ):
        with pytest.raises(error, match=message):
            confusion.update(prediction, label)
    assert int(confusion.counts.sum()) == 0
    with pytest.raises(ValueError, match="both a class and ignored"):
        ConfusionMatrix(256, 255)
