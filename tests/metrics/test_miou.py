"""mIoU against a hand-computed example, one pixel at a time, and the empty cases."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.metrics.miou import MiouResult, mean_iou


def counted(prediction: torch.Tensor, label: torch.Tensor, classes: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(classes, 255)
    confusion.update(prediction, label)
    return confusion


# Class 3 is predicted but never labelled, class 4 neither; the last pixel is ignored.
LABEL = torch.tensor([[0, 0, 0, 0], [1, 1, 2, 255]])
PREDICTION = torch.tensor([[0, 0, 1, 3], [1, 1, 0, 2]])


def test_a_hand_computed_example():
    result = mean_iou(counted(PREDICTION, LABEL, 5))
    assert result.per_class == (2 / 5, 2 / 3, 0.0, None, None)
    assert result.miou == pytest.approx((2 / 5 + 2 / 3 + 0) / 3)
    assert result.pixel_accuracy == pytest.approx(4 / 7)
    assert result.fw_iou == pytest.approx((4 * 2 / 5 + 2 * 2 / 3 + 0) / 7)


def test_a_subset_averages_its_own_classes_and_still_counts_intruders():
    result = mean_iou(counted(PREDICTION, LABEL, 5), [1, 0])
    assert result.per_class == (2 / 3, 2 / 5)
    assert result.miou == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert result.pixel_accuracy == pytest.approx(4 / 6)
    assert result.fw_iou == pytest.approx((2 * 2 / 3 + 4 * 2 / 5) / 6)


def slow_iou(prediction: torch.Tensor, label: torch.Tensor, wanted: int) -> float | None:
    intersection = union = labelled = 0
    for true, guess in zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if true == 255:
            continue
        intersection += true == wanted and guess == wanted
        union += true == wanted or guess == wanted
        labelled += true == wanted
    return intersection / union if labelled else None


def test_the_mean_equals_the_per_pixel_version():
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        label = torch.randint(0, 6, (11, 13), generator=generator)
        label[label == 4] = 255
        prediction = torch.randint(0, 6, (11, 13), generator=generator)
        result = mean_iou(counted(prediction, label, 6))
        slow = [slow_iou(prediction, label, wanted) for wanted in range(6)]
        assert list(result.per_class) == slow and slow[4] is None
        assert result.miou == pytest.approx(sum(iou for iou in slow if iou is not None) / 5)


def test_a_perfect_prediction_is_one_and_nothing_counted_has_no_figures():
    result = mean_iou(counted(torch.tensor([[0, 1, 2, 0]]), torch.tensor([[0, 1, 2, 255]]), 3))
    assert result == MiouResult(miou=1.0, per_class=(1.0, 1.0, 1.0), pixel_accuracy=1.0, fw_iou=1.0)
    nothing = MiouResult(miou=None, per_class=(None, None), pixel_accuracy=None, fw_iou=None)
    confusion = counted(PREDICTION, LABEL, 5)
    assert mean_iou(ConfusionMatrix(2, 255)) == mean_iou(ConfusionMatrix(2, 255), [0, 1]) == nothing
    assert mean_iou(confusion, [3, 4]) == nothing and mean_iou(confusion, []).miou is None
