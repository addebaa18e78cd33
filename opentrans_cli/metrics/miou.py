"""Mean intersection over union, as detectron2's SemSegEvaluator has computed it since July 2022."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opentrans_cli.metrics.confusion import ConfusionMatrix


@dataclass(frozen=True)
class MiouResult:
    """Fractions in [0, 1]; None where no counted pixel belongs to the class, or to any of the classes."""

    miou: float | None  # mean IoU over the classes that occur in the label maps
    per_class: tuple[float | None, ...]  # IoU by class, in the order of the classes asked for
    pixel_accuracy: float | None  # correct pixels / pixels of these classes
    fw_iou: float | None  # IoU weighted by the classes' share of pixels


def mean_iou(confusion: ConfusionMatrix, classes: Sequence[int] | None = None) -> MiouResult:
    """IoU = correct / (labelled + predicted - correct) per class, and its mean over labelled classes.

    `classes` are ids in [0, num_classes), by default all. A subset chooses which classes are averaged; a
    pixel predicted as one of them still counts against it when its true class lies outside the subset.
    Predictions on ignored pixels are not counted; a class that is predicted but never labelled has IoU None
    and does not lower the mean.
    """
    correct = confusion.counts.diagonal().tolist()
    labelled = confusion.counts.sum(dim=1).tolist()
    predicted = confusion.counts.sum(dim=0).tolist()
    chosen = range(confusion.num_classes) if classes is None else classes

    per_class = tuple(correct[c] / (labelled[c] + predicted[c] - correct[c]) if labelled[c] else None for c in chosen)
    present = [iou for iou in per_class if iou is not None]
    pixels = sum(labelled[c] for c in chosen)
    if not pixels:
        return MiouResult(miou=None, per_class=per_class, pixel_accuracy=None, fw_iou=None)
    weighted = sum(iou * labelled[c] for c, iou in zip(chosen, per_class, strict=True) if iou is not None)
    return MiouResult(
        miou=sum(present) / len(present),
        per_class=per_class,
        pixel_accuracy=sum(correct[c] for c in chosen) / pixels,
        fw_iou=weighted / pixels,
    )
