"""The scores of label maps against a hand-computed example, one pixel at a time, torchmetrics, and the empty cases."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.metrics.miou import Absent, MiouResult, mean_iou

IDS = NDArray[np.integer]


def counted(prediction: IDS, label: IDS, classes: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(classes, 255)
    confusion.update(prediction, label)
    return confusion


# Class 3 is predicted but never labelled, class 4 neither; the last pixel is ignored.
LABEL = np.array([[0, 0, 0, 0], [1, 1, 2, 255]])
PREDICTION = np.array([[0, 0, 1, 3], [1, 1, 0, 2]])


def test_a_hand_computed_example() -> None:
    result = mean_iou(counted(PREDICTION, LABEL, 5))
    assert result.per_class == (2 / 5, 2 / 3, 0.0, None, None)
    assert result.class_accuracy == (2 / 4, 1.0, 0.0, None, None)
    assert result.miou == pytest.approx((2 / 5 + 2 / 3 + 0) / 3)
    assert result.mean_accuracy == pytest.approx((2 / 4 + 1 + 0) / 3)
    assert result.pixel_accuracy == pytest.approx(4 / 7)
    assert result.fw_iou == pytest.approx((4 * 2 / 5 + 2 * 2 / 3 + 0) / 7)


def test_an_absent_class_that_is_predicted_can_count_as_zero() -> None:
    excluded, zero = (mean_iou(counted(PREDICTION, LABEL, 5), absent=rule) for rule in ("exclude", "zero"))
    assert zero.per_class == (2 / 5, 2 / 3, 0.0, 0.0, None)
    assert zero.miou == pytest.approx((2 / 5 + 2 / 3 + 0 + 0) / 4)
    same = ("fw_iou", "mean_accuracy", "class_accuracy", "pixel_accuracy")
    assert all(getattr(zero, name) == getattr(excluded, name) for name in same)
    with pytest.raises(ValueError, match="'none'"):
        mean_iou(ConfusionMatrix(2, 255), absent="none")  # type: ignore[arg-type]


def test_a_subset_averages_its_own_classes_and_still_counts_intruders() -> None:
    result = mean_iou(counted(PREDICTION, LABEL, 5), [1, 0])
    assert result.per_class == (2 / 3, 2 / 5)
    assert result.miou == pytest.approx((2 / 3 + 2 / 5) / 2)
    assert result.pixel_accuracy == pytest.approx(4 / 6)
    assert result.fw_iou == pytest.approx((2 * 2 / 3 + 4 * 2 / 5) / 6)
    assert mean_iou(counted(PREDICTION, LABEL, 5), [3, 0], absent="zero").miou == pytest.approx((0 + 2 / 5) / 2)


def random_maps(seed: int) -> tuple[IDS, IDS]:
    """Of 8 classes: 4 and 6 are never labelled, 6 and 7 never predicted; some pixels are ignored."""
    rng = np.random.default_rng(seed)
    label, prediction = rng.integers(0, 8, (2, 40, 30))
    label[(label == 4) | (label == 6)] = 255
    prediction[prediction >= 6] = 0
    prediction[label == 255] = rng.integers(0, 6, (label == 255).sum())
    prediction = np.where(rng.random(label.shape) < 0.5, np.where(label < 6, label, prediction), prediction)
    return prediction, label


def slow_scores(prediction: IDS, label: IDS, classes: int, absent: str) -> dict[str, object]:
    """Every score as its definition reads, one class after the other, on the pixels that are not ignored."""
    pairs = [pair for pair in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True) if pair[0] != 255]
    ious: list[float | None] = []
    accuracies: list[float | None] = []
    shares = []
    for wanted in range(classes):
        both = sum(true == wanted and guess == wanted for true, guess in pairs)
        either = sum(true == wanted or guess == wanted for true, guess in pairs)
        labelled = sum(true == wanted for true, _ in pairs)
        ious.append(both / either if labelled or (either and absent == "zero") else None)
        accuracies.append(both / labelled if labelled else None)
        shares.append(labelled / len(pairs))
    return {
        "miou": fmean(iou for iou in ious if iou is not None),
        "per_class": ious,
        "fw_iou": sum(share * iou for share, iou in zip(shares, ious, strict=True) if iou is not None),
        "mean_accuracy": fmean(accuracy for accuracy in accuracies if accuracy is not None),
        "class_accuracy": accuracies,
        "pixel_accuracy": sum(true == guess for true, guess in pairs) / len(pairs),
    }


@pytest.mark.parametrize("absent", ["exclude", "zero"])
def test_all_scores_equal_the_per_pixel_version(absent: Absent) -> None:
    for seed in range(5):
        prediction, label = random_maps(seed)
        expected = slow_scores(prediction, label, 8, absent)
        result = mean_iou(counted(prediction, label, 8), absent=absent)
        assert result.per_class[4] == (0 if absent == "zero" else None) and result.per_class[6] is None
        assert result.miou == pytest.approx(expected["miou"], abs=1e-9)
        for name, value in vars(result).items():
            assert value == pytest.approx(expected[name], abs=1e-9), name


def test_torchmetrics_agrees_where_its_definitions_do() -> None:
    """Its pixels by class give ours to the last digit; its own fractions, in float32, are those of "zero"."""
    from torchmetrics.functional import classification as theirs  # slow to import, and for this test alone

    for seed in range(3):
        prediction, label = random_maps(seed)
        given = torch.from_numpy(prediction), torch.from_numpy(label)
        zero, excluded = (mean_iou(counted(prediction, label, 8), absent=rule) for rule in ("zero", "exclude"))

        options = {"num_classes": 8, "ignore_index": 255}
        columns = theirs.multiclass_stat_scores(*given, average="none", **options).double().T
        right, wrongly, _, missed, labelled = columns.numpy()
        there, either = labelled > 0, right + wrongly + missed
        ious, accuracies = right[there] / either[there], right[there] / labelled[there]
        assert excluded.miou == pytest.approx(ious.mean(), abs=1e-9)
        assert zero.miou == pytest.approx(ious.sum() / (either > 0).sum(), abs=1e-9)
        assert zero.fw_iou == pytest.approx((ious * labelled[there]).sum() / labelled.sum(), abs=1e-9)
        assert zero.mean_accuracy == pytest.approx(accuracies.mean(), abs=1e-9)
        assert zero.pixel_accuracy == pytest.approx(right.sum() / labelled.sum(), abs=1e-9)

        def iou(average: str) -> float:
            return float(theirs.multiclass_jaccard_index(*given, average=average, **options))  # noqa: B023

        assert iou("macro") == pytest.approx(zero.miou, abs=1e-6)
        assert iou("weighted") == pytest.approx(zero.fw_iou, abs=1e-6)


def test_a_perfect_prediction_is_one_and_nothing_counted_has_no_figures() -> None:
    result = mean_iou(counted(np.array([[0, 1, 2, 0]]), np.array([[0, 1, 2, 255]]), 3))
    assert result == MiouResult(1.0, (1.0, 1.0, 1.0), 1.0, 1.0, (1.0, 1.0, 1.0), 1.0)
    nothing = MiouResult(None, (None, None), None, None, (None, None), None)
    confusion = counted(PREDICTION, LABEL, 5)
    assert mean_iou(ConfusionMatrix(2, 255)) == mean_iou(ConfusionMatrix(2, 255), [0, 1]) == nothing
    assert mean_iou(confusion, [3, 4]) == nothing and mean_iou(confusion, []).miou is None
