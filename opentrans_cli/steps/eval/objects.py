"""Figures of a report on single objects: panoptic quality and mask AP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from opentrans_cli.metrics.mask_ap import MaskPrecision
from opentrans_cli.metrics.panoptic import PanopticCounts, Quality


def panoptic_scores(counts: PanopticCounts, names: Sequence[str], things: Sequence[bool]) -> dict[str, Any]:
    """PQ, SQ and RQ of all classes, of things and of stuff, and of each class; fractions, None where there is none.

    things: by class, whether it consists of objects.
    """

    def mean(wanted: bool) -> dict[str, Any]:
        return asdict(counts.mean([index for index, thing in enumerate(things) if thing is wanted]))

    return {
        **asdict(counts.mean()),
        "things": mean(True),
        "stuff": mean(False),
        "per_class": [
            {"name": name, "thing": thing, **_of_class(counts.of_class(index))}
            for index, (name, thing) in enumerate(zip(names, things, strict=True))
        ],
    }


def _of_class(quality: Quality) -> dict[str, Any]:
    return {name: value for name, value in asdict(quality).items() if name != "classes"}


def instance_scores(precision: MaskPrecision, names: Sequence[str]) -> dict[str, Any]:
    """AP over all IoUs and sizes, its usual parts, and that of each class; fractions, None where there is none."""
    classes = zip(names, precision.per_class, strict=True)
    return {**precision.means, "per_class": [{"name": name, "ap": ap} for name, ap in classes]}
