"""Confusion counts against one pixel at a time."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.errors import DataError
from opentrans_cli.metrics.confusion import ConfusionMatrix


def slow_counts(prediction: torch.Tensor, label: torch.Tensor, classes: int, ignore: int) -> list[list[int]]:
    counts = [[0] * classes for _ in range(classes)]
    for row in range(label.shape[0]):
        for column in range(label.shape[1]):
            if int(label[row, column]) != ignore:
                counts[int(label[row, column])][int(prediction[row, column])] += 1
    return counts


def test_counts_equal_the_per_pixel_version_and_add_up_over_images():
    generator = torch.Generator().manual_seed(0)
    confusion, expected = ConfusionMatrix(5, 255), torch.zeros(5, 5, dtype=torch.int64)
    for dtype, size in ((torch.uint8, (7, 9)), (torch.int32, (1, 1)), (torch.int64, (12, 4))):
        label = torch.randint(0, 5, size, generator=generator)
        label[torch.rand(size, generator=generator) < 0.2] = 255
        prediction = torch.randint(0, 5, size, generator=generator)
        prediction[label == 255] = 7  # what is said of an ignored pixel counts nowhere
        confusion.update(prediction.to(dtype), label.to(dtype))
        expected += torch.tensor(slow_counts(prediction, label, 5, 255))
    assert torch.equal(confusion.counts, expected) and confusion.counts.dtype == torch.int64


def test_sixteen_bit_label_maps_are_counted():
    confusion = ConfusionMatrix(847, 65535)
    label = torch.tensor([[846, 65535, 300]], dtype=torch.int32).to(torch.uint16)
    confusion.update(torch.tensor([[846, 0, 2]]), label)
    assert int(confusion.counts.sum()) == 2
    assert confusion.counts[846, 846] == confusion.counts[300, 2] == confusion.ignored == 1


def test_what_cannot_be_counted_is_refused_by_name_and_nothing_is_counted():
    confusion, many = ConfusionMatrix(3, 255), torch.arange(50)[None]
    foreign = torch.tensor([[0, 7, 254, 255, 7, -1]])
    zeros = torch.zeros(2, 3, dtype=torch.int64)
    for prediction, label, error, message in (
        (foreign * 0, foreign, DataError, r"outside the class list: -1, 7, 254 \(classes are 0 to 2, 255 is"),
        (many * 0, many, DataError, r"list: 3, 4, 5, 6, 7, \.\.\. \("),
        (zeros, torch.zeros(4, 6, dtype=torch.int64), DataError, "differ in size: 4 x 6 and 2 x 3;"),
        (zeros - 1, zeros, ValueError, r"\[0, 3\)"),
        (zeros + 3, zeros, ValueError, r"\[0, 3\)"),
    ):
        with pytest.raises(error, match=message):
            confusion.update(prediction, label)
    assert int(confusion.counts.sum()) == 0
