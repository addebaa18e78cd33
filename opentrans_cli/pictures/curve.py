"""A chart of accuracy and size against sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opentrans_cli.pictures.charts import INK, KEPT, MUTED, OTHER, RULE, bare_axes, canvas, legend

_UNSEEN = "#4f9d69"
_GAP = 0.075
"""Least distance of two figures beside the ends of lines, as a share of the axis."""


class CurvePoint(NamedTuple):
    """The results at one sparsity: accuracies and sparsity are in [0, 1]; None means nothing to score."""

    sparsity: float
    miou: float | None
    miou_seen: float | None
    miou_unseen: float | None
    bytes: int


class _Line(NamedTuple):
    """One line of a panel."""

    label: str
    heights: list[float]  # NaN where there is nothing to score
    colour: str
    width: float  # points


def curve_chart(path: Path, points: Sequence[CurvePoint], *, title: str) -> None:
    """Write a PNG with mIoU above and size below, over the percentage of weights removed. Same numbers, same bytes."""
    points = sorted(points, key=lambda point: point.sparsity)
    removed = [100 * point.sparsity for point in points]
    with canvas(path, height=5.2) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _panel(above, removed, _accuracies(points), name="mIoU, %")
        unit, factor = ("MB", 1e6) if max(point.bytes for point in points) >= 1e6 else ("kB", 1e3)
        sizes = [point.bytes / factor for point in points]
        _panel(below, removed, [_Line("size", sizes, KEPT, 2.0)], name=f"size, {unit}")
        below.set_xlim(0, 100)
        below.set_xlabel("weights removed, %", color=MUTED, fontsize=9)
        above.set_title(title, loc="left", fontsize=11, color=INK, pad=22)
        if drawn := above.get_lines()[::-1]:  # the first line is drawn last, on top
            legend(above, handles=drawn)


def _accuracies(points: Sequence[CurvePoint]) -> list[_Line]:
    """A line for each group of classes that is scored anywhere."""
    groups = {
        "all classes": ([point.miou for point in points], KEPT, 2.0),
        "seen": ([point.miou_seen for point in points], OTHER, 1.2),
        "unseen": ([point.miou_unseen for point in points], _UNSEEN, 1.2),
    }
    return [
        _Line(label, [float("nan") if value is None else 100 * value for value in values], colour, width)
        for label, (values, colour, width) in groups.items()
        if any(value is not None for value in values)
    ]


def _panel(axes: Any, removed: Sequence[float], lines: Sequence[_Line], *, name: str) -> None:
    bare_axes(axes)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.tick_params(axis="both", length=0)
    axes.set_ylabel(name, color=MUTED, fontsize=9)
    heights = [height for line in lines for height in line.heights if height == height]
    top = 1.1 * max([*heights, 1e-9]) if heights else 100.0
    axes.set_ylim(0, top)
    for line in reversed(lines):
        axes.plot(
            removed,
            line.heights,
            color=line.colour,
            linewidth=line.width,
            marker="o",
            markersize=2.2 * line.width,
            label=line.label,
        )
    _figures(axes, removed[-1], lines, place=-1, top=top)
    if len(removed) > 1:
        _figures(axes, removed[0], lines, place=0, top=top)


def _figures(axes: Any, x: float, lines: Sequence[_Line], *, place: int, top: float) -> None:
    """Prints the first or last value of every line beside its end, and moves them apart if they overlap."""
    from matplotlib.patheffects import withStroke

    y = float("-inf")
    found = [(line.heights[place], line) for line in lines if line.heights[place] == line.heights[place]]
    for height, line in sorted(found, key=lambda pair: pair[0]):
        y = max(height, y + _GAP * top)
        axes.annotate(
            f"{height:.1f}",
            (x, y),
            xytext=(-7 if place == 0 else 7, 0),
            textcoords="offset points",
            ha="right" if place == 0 else "left",
            va="center_baseline",
            fontsize=8,
            color=line.colour,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            annotation_clip=False,
        )
