"""Charts by layer: how many weights are kept, and how heavy the tail of the spectrum is."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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


class DrawnFit(Protocol):
    """A power law p(x) ~ x**-alpha fitted from xmin on."""

    @property
    def xmin(self) -> float: ...
    @property
    def ks_distance(self) -> float: ...  # in [0, 1]
    @property
    def tail_size(self) -> int: ...  # eigenvalues at or above xmin; 0: no fit


class DrawnLayer(Protocol):
    """What is drawn of one layer: its dot among the alphas, its spectrum, and the fit of the tail."""

    @property
    def name(self) -> str: ...
    @property
    def alpha(self) -> float: ...  # inf: no fit
    @property
    def decision(self) -> str: ...  # "frozen" or "trained"
    @property
    def interval(self) -> tuple[float, float] | None: ...  # low, high of alpha
    @property
    def unstable(self) -> bool: ...  # whether another estimator would change the decision
    @property
    def eigenvalues(self) -> NDArray[np.float64]: ...  # (n,), ascending, not negative
    @property
    def fit(self) -> DrawnFit: ...
    @property
    def verdict(self) -> str: ...  # text that says why there is no fit


def alpha_chart(path: Path, layers: Sequence[DrawnLayer], median: float, *, title: str) -> None:
    """Write a picture with one dot per layer, coloured by decision; a line marks `median`. See `draw_alphas`.

    Same numbers, same bytes.
    """
    with _figure(path, [layer.name for layer in layers], title) as axes:
        draw_alphas(axes, layers, median)
        legend(axes)


def draw_alphas(
    axes: Any,
    layers: Sequence[DrawnLayer],
    median: float,
    *,
    others: Mapping[str, float | None] = MappingProxyType({}),
    other_label: str = "before",
) -> None:
    """The dots of an alpha chart, the first at y = 0, with labels for a legend.

    Smaller alpha = heavier tail = better trained (OpenTrans, arXiv 2404.07448, Sec. 3.3.2). Alphas far beyond the
    median are triangles at the right edge with their value; an infinite one, of a layer whose spectrum could not be
    fitted, is labelled "no fit". Intervals are thin bars, and unstable layers have a ring around their dot. others: a
    second alpha for each layer, such as the one before pruning; it is a hollow diamond named `other_label`.
    """
    usual = [layer.alpha for layer in layers if math.isfinite(layer.alpha) and layer.alpha <= BEYOND * median]
    seconds = [others.get(layer.name) for layer in layers]
    ends = [end for layer in layers for end in layer.interval or ()] + [end for end in seconds if end is not None]
    near = [end for end in ends if math.isfinite(median) and end <= BEYOND * median]
    anchors = [*usual, *near, median if math.isfinite(median) else 1.0]
    edge = max(anchors) * 1.06
    if math.isfinite(median):
        _dashed(axes, median, f"median {median:.2f}")
    for place, (layer, second) in enumerate(zip(layers, seconds, strict=True)):
        _alpha_dot(axes, place, layer, second, edge=edge, beyond=layer.alpha not in usual)
    for decision, colour in DECISIONS.items():
        if any(layer.decision == decision for layer in layers):
            axes.scatter([], [], s=30, color=colour, label=decision)
    if any(layer.unstable for layer in layers):
        axes.scatter([], [], s=80, facecolors="none", edgecolors=INK, linewidths=0.9, label="unstable")
    if any(second is not None for second in seconds):
        axes.scatter([], [], s=26, marker="D", facecolors="white", edgecolors=MUTED, label=literal(other_label))
    axes.set_xlim(min(anchors) * 0.9, edge * 1.08)
    axes.set_xlabel("alpha (smaller = heavier tail = better trained)")
    axes.grid(axis="y", color=RULE, linewidth=0.6)


def _alpha_dot(axes: Any, place: int, layer: DrawnLayer, second: float | None, *, edge: float, beyond: bool) -> None:
    colour = DECISIONS[layer.decision]
    x, marker = (edge, ">") if beyond else (layer.alpha, "o")
    reach = [x]
    if layer.interval is not None:
        low, high = (min(end, edge) for end in layer.interval)
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4, alpha=0.55, solid_capstyle="butt")
        reach.append(high)
    if second is not None:
        at, shape = (edge, ">") if second > edge else (second, "D")
        axes.scatter([at], [place], s=26, marker=shape, facecolors="white", edgecolors=MUTED, zorder=2.5)
        reach.append(at)
    axes.scatter([x], [place], s=30, marker=marker, color=colour, zorder=3)
    if layer.unstable:
        axes.scatter([x], [place], s=80, facecolors="none", edgecolors=INK, linewidths=0.9, zorder=3)
    _value(axes, f"{layer.alpha:.2f}" if math.isfinite(layer.alpha) else "no fit", at=(max(reach), place))


def literal(text: str) -> str:
    """`text` as matplotlib shows it letter by letter: no formulas between dollars, no control characters.

    Names of layers and files come from outside and are not trusted.
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
    """An empty figure of `width` x `height` inches, saved to `path` at the end, completely or not at all. The suffix
    decides between PNG and SVG; same drawing, same bytes. Raises OptionError for another suffix.
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
    """Removes everything from plain axes except a thin line at the bottom and small grey numbers."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.tick_params(axis="both", colors=MUTED, labelsize=8)


def layer_axes(axes: Any, names: Sequence[str]) -> None:
    """Gives plain axes one line per name, the first on top, at y = 0."""
    bare_axes(axes)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    axes.set_yticks(range(len(names)), [literal(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.label.set(color=MUTED, fontsize=9)


def _dashed(axes: Any, x: float, label: str) -> None:
    axes.axvline(x, color=MEAN, linewidth=1, linestyle=(0, (4, 3)), label=label)


def legend(axes: Any, **what: Any) -> None:
    """A legend above the axes, in one line; `what` as in matplotlib, by default all that is drawn."""
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
