"""The figures of a report on label maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentrans_cli.metrics.boundary import DILATION_RATIO, BoundaryMatrix, boundary_iou
from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.metrics.miou import Absent, mean_iou


def group_miou(
    confusion: ConfusionMatrix, seen: Sequence[bool], *, absent: Absent = "exclude"
) -> dict[str, float | None]:
    """mIoU of all, of seen and of unseen classes (`seen`: by class, had training labels), and pixel accuracy.

    All are fractions; None if none of the classes occurs.
    """
    total = mean_iou(confusion, absent=absent)
    groups = {flag: [index for index, value in enumerate(seen) if value is flag] for flag in (True, False)}
    return {
        "miou": total.miou,
        "miou_seen": mean_iou(confusion, groups[True], absent=absent).miou,
        "miou_unseen": mean_iou(confusion, groups[False], absent=absent).miou,
        "pixel_accuracy": total.pixel_accuracy,
    }


def quality_figures(
    confusion: ConfusionMatrix,
    names: Sequence[str],
    seen: Sequence[bool],
    *,
    absent: Absent,
    boundary: BoundaryMatrix | None = None,
) -> dict[str, Any]:
    """The scores of an eval report: those of `group_miou`, the other means, and each class.

    absent: what a class without labelled pixels counts. boundary: the same pictures near contours. All are fractions;
    None where there is no value.
    """
    total = mean_iou(confusion, absent=absent)
    classes = zip(names, total.per_class, total.class_accuracy, seen, strict=True)
    per_class = [
        {"name": name, "iou": iou, "accuracy": accuracy, "seen": flag} for name, iou, accuracy, flag in classes
    ]
    figures: dict[str, Any] = {
        **group_miou(confusion, seen, absent=absent),
        "fwiou": total.fw_iou,
        "macc": total.mean_accuracy,
        "absent": absent,
    }
    if boundary is not None:
        near = boundary_iou(boundary, total, absent=absent)
        figures["boundary"] = {"miou": near.miou, "min_miou": near.min_miou, "dilation_ratio": DILATION_RATIO}
        for entry, iou in zip(per_class, near.per_class, strict=True):
            entry["boundary_iou"] = iou
    return {**figures, "per_class": per_class}
