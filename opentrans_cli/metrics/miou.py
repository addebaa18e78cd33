"""Scores of label maps, in both definitions of mean IoU that detectron2's SemSegEvaluator has had."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from opentrans_cli.metrics.confusion import ConfusionMatrix

Absent = Literal["exclude", "zero"]
"""What a class without labelled pixels means for the mean IoU, if it is predicted somewhere:

exclude   nothing; the mean is taken over labelled classes, as in detectron2 since July 2022
zero      an IoU of 0, as in detectron2 up to 0.6, mmsegmentation and torchmetrics
"""


@dataclass(frozen=True)
class MiouResult:
    """Fractions in [0, 1]; None where no counted pixel belongs to the class, or to any of the classes."""

    miou: float | None  # mean IoU over the classes that have one
    per_class: tuple[float | None, ...]  # IoU by class, in the order of the classes asked for
    fw_iou: float | None  # IoU weighted by the classes' share of pixels
    mean_accuracy: float | None  # mean of the classes' accuracies
    class_accuracy: tuple[float | None, ...]  # share of each class's pixels that are predicted as the class
    pixel_accuracy: float | None  # correct pixels / pixels of these classes


def mean_iou(
    confusion: ConfusionMatrix, classes: Sequence[int] | None = None, *, absent: Absent = "exclude"
) -> MiouResult:
    """IoU = correct / (labelled + predicted - correct) per class, and means over classes.

    `classes` are ids in [0, num_classes), by default all. A subset chooses which classes are averaged; a
    pixel predicted as one of them still counts against it when its true class lies outside the subset.
    Predictions on ignored pixels are not counted. A class that is never labelled has no accuracy, and no IoU either;
    only with absent="zero" it has IoU 0 where it is predicted, which lowers the mean.
    """
    if absent not in get_args(Absent):
        raise ValueError(f"absent is 'exclude' or 'zero', not {absent!r}")
    chosen = range(confusion.num_classes) if classes is None else classes
    found = zip(confusion.correct.tolist(), confusion.labelled.tolist(), confusion.predicted.tolist(), strict=True)
    counts = [*found]
    of = [counts[c] for c in chosen]
    ious = tuple(
        correct / (labelled + predicted - correct) if labelled or (predicted and absent == "zero") else None
        for correct, labelled, predicted in of
    )
    accuracies = tuple(correct / labelled if labelled else None for correct, labelled, _ in of)
    pixels = sum(labelled for _, labelled, _ in of)
    weighted = sum(iou * labelled for iou, (_, labelled, _) in zip(ious, of, strict=True) if iou is not None)
    return MiouResult(
        miou=mean_of(ious),
        per_class=ious,
        fw_iou=weighted / pixels if pixels else None,
        mean_accuracy=mean_of(accuracies),
        class_accuracy=accuracies,
        pixel_accuracy=sum(correct for correct, _, _ in of) / pixels if pixels else None,
    )


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of those that are not None; None without any."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
