"""Empirical spectral densities of layers on log-log axes, with the fitted tail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.pictures.charts import INK, KEPT, MUTED, RULE, DrawnLayer, canvas, literal

COLUMNS = 3
_FIT = "#c2352b"
_DOTS = (0, (1, 1.5))
_ROOM = 4.0
_ROOM_FOR_TEXT = 40.0
"""Free space above the highest density and below the lowest, as a factor."""


def fitted(layer: DrawnLayer) -> bool:
    """Whether there is a line to draw."""
    return math.isfinite(layer.alpha) and layer.fit.tail_size > 0 and layer.fit.xmin > 0


def esd_chart(path: Path, layers: Sequence[DrawnLayer], *, title: str) -> None:
    """Write a picture with a panel for each spectrum: the density of its eigenvalues, and the fit from xmin on.

    Both axes are logarithmic, so a power law is a line of slope -alpha; a dotted line marks xmin. A spectrum without a
    fit has no line and says why. Densities are per unit of eigenvalue and integrate to 1; zeros, which have no
    logarithm, are counted but not drawn. Same numbers, same bytes. ValueError if there is no spectrum.
    """
    if not layers:
        raise ValueError("no spectrum to draw")
    columns = min(COLUMNS, len(layers))
    rows = -(-len(layers) // columns)
    size = 3.4 if columns == 1 else 2.9 if columns == 2 else 2.3
    with canvas(path, height=0.8 + size * rows) as figure:
        fit_legend(figure, title=title)
        figure.supxlabel("eigenvalue", fontsize=8, color=MUTED)
        figure.supylabel("density", fontsize=8, color=MUTED)
        for place, layer in enumerate(layers):
            axes = figure.add_subplot(rows, columns, place + 1)
            draw_esd(axes, layer)
            axes.set_title(literal(layer.name), loc="left", fontsize=8.5, color=INK, pad=15)
            _above(axes, facts(layer))
            axes.tick_params(axis="both", which="both", colors=MUTED, labelsize=7)


def facts(layer: DrawnLayer) -> str:
    """The fit in one short line."""
    if not fitted(layer):
        return f"no fit, {len(layer.eigenvalues)} eigenvalues"
    tail = f"tail {layer.fit.tail_size}/{len(layer.eigenvalues)}"
    return f"alpha {layer.alpha:.2f}   KS {layer.fit.ks_distance:.3f}   {tail}"


def fit_legend(figure: Any, *, title: str = "", colour: str = KEPT) -> None:
    """A line above all panels that says what is drawn in each, below a title."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure.legend(
        handles=[
            Patch(facecolor=colour, alpha=0.35, label="eigenvalues"),
            Line2D([], [], color=_FIT, linewidth=1.6, label="fitted tail, slope -alpha"),
            Line2D([], [], color=INK, linewidth=1, linestyle=_DOTS, label="xmin"),
        ],
        loc="outside upper left",
        ncols=3,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        title=literal(title) or None,
        title_fontproperties={"size": 11},
        alignment="left",
        borderpad=0.2,
    )


def _above(axes: Any, text: str) -> None:
    axes.annotate(
        text, (0, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points", fontsize=7, color=MUTED
    )


def draw_esd(axes: Any, layer: DrawnLayer, *, colour: str = KEPT, small: bool = False) -> None:
    """The density, the fit and xmin on `axes`, which become logarithmic; `small` for a panel without labels."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    density_B, edges_E = log_density(layer.eigenvalues)
    seen = density_B[density_B > 0]
    if len(seen):
        bottom, top = seen.min() / _ROOM, seen.max() * (_ROOM if fitted(layer) else _ROOM_FOR_TEXT)
        axes.stairs(density_B, edges_E, fill=True, baseline=bottom, color=colour, alpha=0.35, linewidth=0)
        axes.stairs(np.maximum(density_B, bottom), edges_E, baseline=bottom, color=colour, linewidth=0.7)
        axes.set_ylim(bottom, top)
        # A range below a decade may contain no power of ten, and only these are numbered on the axis.
        margin = max(1.15, math.sqrt(15 * edges_E[0] / edges_E[-1]))
        axes.set_xlim(edges_E[0] / margin, edges_E[-1] * margin)
    if fitted(layer):
        _draw_fit(axes, layer, width=1.1 if small else 1.6)
        return
    text, size = (layer.verdict, 6.5) if small else (f"no fit: {layer.verdict}", 8)
    axes.text(0.5, 0.9, text, transform=axes.transAxes, ha="center", va="top", fontsize=size, color=INK)


def _draw_fit(axes: Any, layer: DrawnLayer, *, width: float) -> None:
    share = layer.fit.tail_size / len(layer.eigenvalues)
    ends = np.array([layer.fit.xmin, max(layer.eigenvalues[-1], layer.fit.xmin)])
    density = share * (layer.alpha - 1) / layer.fit.xmin * (ends / layer.fit.xmin) ** -layer.alpha
    axes.plot(ends, density, color=_FIT, linewidth=width)
    axes.axvline(layer.fit.xmin, color=INK, linewidth=0.6 * width, linestyle=_DOTS)
    bottom, top = axes.get_ylim()
    # A steep line may leave the panel at the bottom, where no eigenvalue is, but its start must be visible.
    axes.set_ylim(bottom, max(top, density[0] * 2))


def log_density(eigenvalues: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Densities (B,) in bins of equal width in log10, and the edges (B + 1,) of the bins.

    Bins grow with the cube root of the number of eigenvalues, the rule for a smooth density. A spectrum of one value
    has one bin around it; one of zeros alone has none, and the edges are [1, 10].
    """
    positive = eigenvalues[eigenvalues > 0]
    if not len(positive):
        return np.zeros(1), np.array([1.0, 10.0])
    low, high = np.log10(positive[0]), np.log10(positive[-1])
    if high - low < 1e-3:
        low, high, bins = low - 0.5, high + 0.5, 1
    else:
        bins = int(np.clip(round(2.5 * len(positive) ** (1 / 3)), 5, 60))
    # Counted in log10, where the outer edges are exact.
    counts, edges = np.histogram(np.log10(positive), bins=bins, range=(low, high))
    edges = 10**edges
    return counts / (len(eigenvalues) * np.diff(edges)), edges
