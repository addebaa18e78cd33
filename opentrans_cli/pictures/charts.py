"""Charts by layer: how many weights are kept, and how heavy the tail of the spectrum is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INK, MUTED, RULE = "#20242a", "#6e747c", "#d9dce0"
KEPT, TWIN, MEAN = "#2f6fb5", "#e0802b", "#20242a"
DECISIONS = {"frozen": "#2f6fb5", "trained": "#e0802b"}
FURTHER = ("#7a7f87", "#4f9d69", "#9460b0")

DPI = 150
BEYOND = 3.0
"""Alphas above this multiple of the median stand at the edge, where they do not squeeze the others."""

Layers = Sequence[tuple[str, int, int]]


def density_chart(path: Path, layers: Layers, *, title: str, twin: Layers | None = None) -> None:
    """Write a PNG with one bar per layer (name, kept, total): the percentage of its weights that is kept.

    Layers run from top to bottom; a dashed line marks the percentage kept of all weights together. `twin`,
    the same layers under a random mask, is drawn as dots; ValueError if it has other layers. Same numbers,
    same bytes.
    """
    names = [name for name, _, _ in layers]
    if twin is not None and [name for name, _, _ in twin] != names:
        raise ValueError("the twin has other layers")
    shares = [100 * kept / total for _, kept, total in layers]
    overall = 100 * sum(kept for _, kept, _ in layers) / sum(total for _, _, total in layers)
    with _figure(path, names, title) as axes:
        places = range(len(layers))
        axes.barh(places, shares, height=0.72, color=KEPT)
        _dashed(axes, overall, f"all layers: {overall:.1f} %")
        if twin is not None:
            dots = [100 * kept / total for _, kept, total in twin]
            axes.scatter(dots, places, s=34, color=TWIN, edgecolors="white", zorder=3, label="random twin")
        for place, share in zip(places, shares, strict=True):
            _value(axes, f"{share:.1f}", at=(share, place))
        axes.set_xlim(0, max([*shares, overall, 1.0]) * 1.12)
        axes.set_xlabel("weights kept, %")
        legend(axes)


def alpha_chart(path: Path, layers: Sequence[tuple[str, float, str]], median: float, *, title: str = "") -> None:
    """Write a PNG with one dot per layer (name, alpha, decision), coloured by decision; a line marks
    `median`.

    Smaller alpha = heavier tail = better trained (OpenTrans, arXiv 2404.07448, Sec. 3.3.2). Alphas far beyond
    the median are triangles at the right edge with their value; an infinite one, of a layer whose spectrum
    could not be fitted, is labelled "no fit". Same numbers, same bytes.
    """
    usual = [alpha for _, alpha, _ in layers if math.isfinite(alpha) and alpha <= BEYOND * median]
    anchors = [*usual, median] if math.isfinite(median) else [*usual, 1.0]
    edge = max(anchors) * 1.06
    colours = _decision_colours({decision for _, _, decision in layers})
    with _figure(path, [name for name, _, _ in layers], title) as axes:
        if math.isfinite(median):
            _dashed(axes, median, f"median {median:.2f}")
        for place, (_, alpha, decision) in enumerate(layers):
            beyond = alpha not in usual
            x, marker = (edge, ">") if beyond else (alpha, "o")
            axes.scatter([x], [place], s=30, marker=marker, color=colours[decision], zorder=3)
            _value(axes, f"{alpha:.2f}" if math.isfinite(alpha) else "no fit", at=(x, place))
        for decision, colour in colours.items():
            axes.scatter([], [], s=30, color=colour, label=decision)
        axes.set_xlim(min(anchors) * 0.9, edge * 1.08)
        axes.set_xlabel("alpha (smaller = heavier tail = better trained)")
        axes.grid(axis="y", color=RULE, linewidth=0.6)
        legend(axes)


def _decision_colours(decisions: set[str]) -> dict[str, str]:
    ordered = sorted(decisions, key=lambda name: (name not in DECISIONS, name))
    further = iter(FURTHER * len(ordered))
    return {name: DECISIONS.get(name) or next(further) for name in ordered}


@contextmanager
def canvas(path: Path, *, height: float) -> Iterator[Any]:
    """An empty figure of `height` inches, saved to `path` as PNG at the end; same drawing, same bytes."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own matplotlib settings must not change a chart that is published with a digest.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(7.5, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path, format="png", metadata={"Software": None})


@contextmanager
def _figure(path: Path, names: Sequence[str], title: str) -> Iterator[Any]:
    """Axes with one line per name, first on top; saved to `path` at the end."""
    with canvas(path, height=1.3 + 0.19 * len(names)) as figure:
        axes = figure.add_subplot()
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(RULE)
        axes.tick_params(axis="x", colors=MUTED, labelsize=8)
        axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        if title:
            axes.set_title(title, loc="left", fontsize=11, color=INK, pad=22)
        yield axes
        axes.xaxis.label.set(color=MUTED, fontsize=9)


def _dashed(axes: Any, x: float, label: str) -> None:
    axes.axvline(x, color=MEAN, linewidth=1, linestyle=(0, (4, 3)), label=label)


def legend(axes: Any, **what: Any) -> None:
    """A legend above the axes, in one line; `what` as for matplotlib, all that is drawn if left out."""
    axes.legend(
        **what,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        borderaxespad=0.2,
    )


def _value(axes: Any, text: str, *, at: tuple[float, int]) -> None:
    """A small number to the right of a point; its white rim keeps it legible on lines."""
    from matplotlib.patheffects import withStroke

    axes.annotate(
        text,
        at,
        xytext=(6, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=7,
        color=MUTED,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )
