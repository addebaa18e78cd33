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


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counts_equal_the_per_pixel_version_and_add_up_over_images(dtype):
    generator = torch.Generator().manual_seed(0)
    confusion, expected = ConfusionMatrix(5, 255), torch.zeros(5, 5, dtype=torch.int64)
    for size in [(7, 9), (1, 1), (12, 4)]:
        label = torch.randint(0, 5, size, generator=generator)
        label[torch.rand(size, generator=generator) < 0.2] = 255
        prediction = torch.randint(0, 5, size, generator=generator)
        confusion.update(prediction.to(dtype), label.to(dtype))
        expected += torch.tensor(slow_counts(prediction, label, 5, 255))
    assert torch.equal(confusion.counts, expected)
    assert confusion.counts.dtype == torch.int64


def test_sixteen_bit_label_maps_are_counted():
    confusion = ConfusionMatrix(847, 65535)
    label = torch.tensor([[846, 65535, 300]], dtype=torch.int32).to(torch.uint16)
    confusion.update(torch.tensor([[846, 0, 2]]), label)
    assert int(confusion.counts.sum()) == 2
    assert confusion.counts[846, 846] == confusion.counts[300, 2] == 1


def test_a_prediction_on_an_ignored_pixel_counts_nowhere():
    confusion = ConfusionMatrix(2, 255)
    confusion.update(torch.tensor([[1, 255]]), torch.tensor([[255, 255]]))
    assert int(confusion.counts.sum()) == 0


def test_label_ids_outside_the_class_list_are_named_and_nothing_is_counted():
    confusion = ConfusionMatrix(3, 255)
    label = torch.tensor([[0, 7, 254, 255, 7, -1]])
    with pytest.raises(DataError, match=r"outside the class list: -1, 7, 254 \(classes are 0 to 2, 255 is"):
        confusion.update(torch.zeros_like(label), label)
    assert int(confusion.counts.sum()) == 0


def test_many_foreign_ids_are_shortened():
    with pytest.raises(DataError, match=r"list: 1, 2, 3, 4, 5, \.\.\. \("):
        ConfusionMatrix(1, 255).update(torch.zeros(1, 50, dtype=torch.int64), torch.arange(50)[None])


def test_sizes_that_differ_are_refused():
    with pytest.raises(DataError, match="differ in size: 4 x 6 and 2 x 3;"):
        ConfusionMatrix(2, 255).update(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(4, 6, dtype=torch.int64))


@pytest.mark.parametrize("prediction", [-1, 2])
def test_a_prediction_that_is_no_class_is_a_programming_mistake(prediction):
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        ConfusionMatrix(2, 255).update(torch.tensor([[prediction]]), torch.tensor([[0]]))
