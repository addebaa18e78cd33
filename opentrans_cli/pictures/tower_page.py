"""One page for a whole tower: the alpha of every layer at the left, its spectrum at the right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from opentrans_cli.pictures.charts import (
    DECISIONS,
    INK,
    LEGEND,
    MUTED,
    DrawnLayer,
    canvas,
    draw_alphas,
    layer_axes,
    layers_height,
    literal,
)
from opentrans_cli.pictures.esd import draw_esd, fit_legend, fitted

_CHART = 6.0
_PANEL = (1.6, 1.02)
"""Width of the alpha chart, and least width and height of a spectrum, in inches."""
_TALLEST = 2.2
_FEWEST_COLUMNS = 3
_HEAD = 0.45
_LOWEST = 5.6
_LONGEST_NAME = 21
"""Characters that fit above a panel beside an alpha."""
_CHARACTER = 0.105
"""Inches a character of the title takes."""


def tower_page(
    path: Path,
    layers: Sequence[DrawnLayer],
    *,
    source: str,
    estimator: str,
    median: float,
    others: Mapping[str, float | None] = MappingProxyType({}),
    other_label: str = "before",
) -> None:
    """Write one page with the alpha chart and the spectra of all layers, the first one on top.

    Every panel has its own logarithmic axes without numbers: it shows where on the spectrum xmin lies and whether the
    tail follows its line. The title has source, estimator, median alpha, and how many layers are frozen or trained.
    others, other_label: as for `draw_alphas`. Same numbers, same bytes. ValueError if there is no layer.
    """
    if not layers:
        raise ValueError("no layers to draw")
    height = max(_LOWEST, layers_height(len(layers)) + _HEAD)
    columns, rows, places = _grid(len(layers), height - 2 * _HEAD)
    beside = _PANEL[0] * max(columns, _FEWEST_COLUMNS)
    with canvas(path, height=height, width=_CHART + beside) as figure:
        middle = f"median alpha {median:.2f}" if math.isfinite(median) else "no median alpha"
        facts = f"   {estimator}, {middle}, {_counts(layers)}"
        shown = _end_of(source, int((_CHART + beside) / _CHARACTER) - len(facts))
        figure.suptitle(literal(shown + facts), x=0.012, ha="left", fontsize=12, color=INK)
        left, right = figure.subfigures(1, 2, width_ratios=(_CHART, beside))
        axes = left.add_subplot()
        layer_axes(axes, [layer.name for layer in layers])
        draw_alphas(axes, layers, median, others=others, other_label=other_label)
        left.legend(*axes.get_legend_handles_labels(), loc="outside upper left", **LEGEND)
        fit_legend(right, colour=MUTED)
        for place, layer in enumerate(layers):
            # By column, so that the panels run down the page as the chart does.
            panel = right.add_subplot(places, columns, place % rows * columns + place // rows + 1)
            _sparkline(panel, layer)


def _grid(count: int, height: float) -> tuple[int, int, int]:
    """Columns, rows that are filled, and rows there is room for in `height` inches."""
    most = max(1, int(height / _PANEL[1]))
    columns = max(-(-count // most), min(count, _FEWEST_COLUMNS), 1)
    rows = max(1, -(-count // columns))
    return max(1, -(-count // rows)), rows, max(rows, round(height / _TALLEST))


def _counts(layers: Sequence[DrawnLayer]) -> str:
    decisions = [layer.decision for layer in layers]
    return ", ".join(f"{decisions.count(name)} {name}" for name in DECISIONS if name in decisions)


def _sparkline(axes: Any, layer: DrawnLayer) -> None:
    from matplotlib.ticker import NullLocator

    draw_esd(axes, layer, colour=DECISIONS[layer.decision], small=True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(NullLocator())
        axis.set_minor_locator(NullLocator())
    axes.set_title(literal(_end_of(layer.name, _LONGEST_NAME)), loc="left", fontsize=6.8, color=INK, pad=2)
    if fitted(layer):
        axes.set_title(f"{layer.alpha:.2f}", loc="right", fontsize=6.5, color=MUTED, pad=2)


def _end_of(text: str, most: int) -> str:
    """The end of `text`, where names of layers and paths differ, in at most `most` characters, but at least ten."""
    most = max(most, 10)
    return text if len(text) <= most else f"…{text[1 - most :]}"
