"""Charts by layer: how many weights are kept, and how heavy the tail of the spectrum is."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from opentrans_cli.errors import OptionError
from opentrans_cli.files.atomic import write_file

INK, MUTED, RULE = "#20242a", "#6e747c", "#d9dce0"
KEPT, OTHER, MEAN = "#2f6fb5", "#e0802b", "#20242a"
DECISIONS = {"frozen": "#2f6fb5", "trained": "#e0802b"}

DPI = 150
BEYOND = 3.0
"""Alphas above this multiple of the median stand at the edge, where they do not squeeze the others."""

LEGEND: dict[str, Any] = {
    "ncols": 5,
    "columnspacing": 1.4,
    "handletextpad": 0.5,
    "frameon": False,
    "fontsize": 8,
    "labelcolor": INK,
    "borderaxespad": 0.2,
}

SUFFIXES = (".png", ".svg")

Layers = Sequence[tuple[str, int, int]]


def density_chart(path: Path, layers: Layers, *, title: str, control: Layers | None = None) -> None:
    """Write a picture with one bar per layer (name, kept, total): the percentage of its weights that is kept.

    Layers run from top to bottom; a dashed line marks the percentage kept of all weights together. `control`, the same
    layers under a random mask, is drawn as dots; ValueError if it has other layers. Same numbers, same bytes.
    """
    names = [name for name, _, _ in layers]
    if control is not None and [name for name, _, _ in control] != names:
        raise ValueError("the control has other layers")
    shares = [100 * kept / total for _, kept, total in layers]
    overall = 100 * sum(kept for _, kept, _ in layers) / sum(total for _, _, total in layers)
    with _figure(path, names, title) as axes:
        places = range(len(layers))
        axes.barh(places, shares, height=0.72, color=KEPT)
        _dashed(axes, overall, f"all layers: {overall:.1f} %")
        if control is not None:
            dots = [100 * kept / total for _, kept, total in control]
            axes.scatter(dots, places, s=34, color=OTHER, edgecolors="white", zorder=3, label="random twin")
        for place, share in zip(places, shares, strict=True):
            _value(axes, f"{share:.1f}", at=(share, place))
        axes.set_xlim(0, max([*shares, overall, 1.0]) * 1.12)
        axes.set_xlabel("weights kept, %")
        legend(axes)


class AlphaDot(NamedTuple):
    """One layer of an alpha chart."""

    name: str
    alpha: float  # inf: no fit
    decision: str  # "frozen" or "trained"
    interval: tuple[float, float] | None = None  # low, high of alpha
    other: float | None = None  # a second alpha of the layer, such as the one before pruning
    unstable: bool = False  # the decision would fall otherwise on slightly other numbers


def alpha_chart(path: Path, dots: Sequence[AlphaDot], median: float, *, title: str) -> None:
    """Write a picture with one dot per layer, coloured by decision; a line marks `median`. See `draw_alphas`.

    Same numbers, same bytes.
    """
    with _figure(path, [dot.name for dot in dots], title) as axes:
        draw_alphas(axes, dots, median)
        legend(axes)


def draw_alphas(axes: Any, dots: Sequence[AlphaDot], median: float, *, other_label: str = "before") -> None:
    """The dots of an alpha chart, the first at y = 0, with labels for a legend.

    Smaller alpha = heavier tail = better trained (OpenTrans, arXiv 2404.07448, Sec. 3.3.2). Alphas far beyond the
    median are triangles at the right edge with their value; an infinite one, of a layer whose spectrum could not be
    fitted, is labelled "no fit". Intervals are thin bars, other alphas, named `other_label`, hollow diamonds, and
    unstable layers have a ring around their dot.
    """
    usual = [dot.alpha for dot in dots if math.isfinite(dot.alpha) and dot.alpha <= BEYOND * median]
    ends = [end for dot in dots for end in (*(dot.interval or ()), dot.other) if end is not None]
    near = [end for end in ends if math.isfinite(median) and end <= BEYOND * median]
    anchors = [*usual, *near, median if math.isfinite(median) else 1.0]
    edge = max(anchors) * 1.06
    if math.isfinite(median):
        _dashed(axes, median, f"median {median:.2f}")
    for place, dot in enumerate(dots):
        _alpha_dot(axes, place, dot, edge=edge, beyond=dot.alpha not in usual)
    for decision, colour in DECISIONS.items():
        if any(dot.decision == decision for dot in dots):
            axes.scatter([], [], s=30, color=colour, label=decision)
    if any(dot.unstable for dot in dots):
        axes.scatter([], [], s=80, facecolors="none", edgecolors=INK, linewidths=0.9, label="unstable")
    if any(dot.other is not None for dot in dots):
        axes.scatter([], [], s=26, marker="D", facecolors="white", edgecolors=MUTED, label=literal(other_label))
    axes.set_xlim(min(anchors) * 0.9, edge * 1.08)
    axes.set_xlabel("alpha (smaller = heavier tail = better trained)")
    axes.grid(axis="y", color=RULE, linewidth=0.6)


def _alpha_dot(axes: Any, place: int, dot: AlphaDot, *, edge: float, beyond: bool) -> None:
    colour = DECISIONS[dot.decision]
    x, marker = (edge, ">") if beyond else (dot.alpha, "o")
    reach = [x]
    if dot.interval is not None:
        low, high = (min(end, edge) for end in dot.interval)
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4, alpha=0.55, solid_capstyle="butt")
        reach.append(high)
    if dot.other is not None:
        second, shape = (edge, ">") if dot.other > edge else (dot.other, "D")
        axes.scatter([second], [place], s=26, marker=shape, facecolors="white", edgecolors=MUTED, zorder=2.5)
        reach.append(second)
    axes.scatter([x], [place], s=30, marker=marker, color=colour, zorder=3)
    if dot.unstable:
        axes.scatter([x], [place], s=80, facecolors="none", edgecolors=INK, linewidths=0.9, zorder=3)
    _value(axes, f"{dot.alpha:.2f}" if math.isfinite(dot.alpha) else "no fit", at=(max(reach), place))


def literal(text: str) -> str:
    """`text` as matplotlib shows it letter by letter: no formulas between dollars, no control characters.

    Names of layers and files come from strangers.
    """
    return "".join(char if char.isprintable() else "?" for char in text).replace("$", r"\$")


def check_picture(path: Path) -> str:
    """The suffix of a picture that can be drawn, in lower case. Raises OptionError for another one."""
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise OptionError(f"not a kind of picture: {path.name!r}; end the name in {' or '.join(SUFFIXES)}")
    return kind


@contextmanager
def canvas(path: Path, *, height: float, width: float = 7.5) -> Iterator[Any]:
    """An empty figure of `width` x `height` inches, saved to `path` at the end, whole or not at all, as PNG or SVG by
    its suffix; same drawing, same bytes. Raises OptionError for another suffix.
    """
    kind = check_picture(path)
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own matplotlib settings must not change a chart that is published with a digest.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # Without a salt of ours the ids inside an SVG are random.
        matplotlib.rcParams["svg.hashsalt"] = "opentrans"
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        content = io.BytesIO()
        unwanted = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
        figure.savefig(content, format=kind[1:], metadata=unwanted[kind])
    write_file(path, [content.getbuffer()])


@contextmanager
def _figure(path: Path, names: Sequence[str], title: str) -> Iterator[Any]:
    """Axes with one line per name, first on top; saved to `path` at the end."""
    with canvas(path, height=layers_height(len(names))) as figure:
        axes = figure.add_subplot()
        layer_axes(axes, names)
        axes.set_title(literal(title), loc="left", fontsize=11, color=INK, pad=22)
        yield axes


def layers_height(count: int) -> float:
    """Inches that a chart with a line for each of `count` layers needs."""
    return 1.3 + 0.19 * count


def bare_axes(axes: Any) -> None:
    """Takes everything off plain axes but a thin line at the bottom and small grey numbers."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(axis="both", colors=MUTED, labelsize=8)


def layer_axes(axes: Any, names: Sequence[str]) -> None:
    """Makes plain axes ones with a line per name, the first on top, at y = 0."""
    bare_axes(axes)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.label.set(color=MUTED, fontsize=9)


def _dashed(axes: Any, x: float, label: str) -> None:
    axes.axvline(x, color=MEAN, linewidth=1, linestyle=(0, (4, 3)), label=label)


def legend(axes: Any, **what: Any) -> None:
    """A legend above the axes, in one line; `what` as for matplotlib, all that is drawn if left out."""
    axes.legend(**what, loc="lower left", bbox_to_anchor=(0, 1), **LEGEND)


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
