"""Lines over a number, such as a loss over steps, as SVG for a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 360, 220
_TOP, _RIGHT, _BOTTOM = 10, 14, 38
_CHARACTER = 6.8  # width of a character of an axis, at most
_MOST_MARKED = 30
"""Lines of more points have no markers."""
MOST_POINTS = 240
"""A longer line is drawn by the means of equal stretches, which is as fine as a screen can show."""

# Lines differ in their dashes and markers as well as in colour.
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_MARKERS = ("circle", "square", "triangle", "diamond")
_COLOURS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class DrawnLine:
    """A line through points (x, y) of rising x; points that are not finite are left out."""

    label: str
    points: Sequence[tuple[float, float]]


def line_chart(lines: Sequence[DrawnLine], *, x: str, y: str) -> str:
    """An `<svg>` of `lines` over the axes named `x` and `y`; y begins at zero unless it has negative values.

    Same numbers, same text. ValueError if there is no point to draw.
    """
    drawn = [DrawnLine(line.label, thinned(line.points)) for line in lines]
    points = [point for line in drawn for point in line.points]
    if not points:
        raise ValueError("no points to draw")
    columns = ticks(min(px for px, _ in points), max(px for px, _ in points))
    rows = ticks(min(0.0, *(py for _, py in points)), max(py for _, py in points))
    left = 12 + _CHARACTER * max(len(_figure(row)) for row in rows)

    def at(px: float, py: float) -> tuple[float, float]:
        across = (px - columns[0]) / (columns[-1] - columns[0])
        up = (py - rows[0]) / (rows[-1] - rows[0])
        return left + across * (WIDTH - left - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    parts = []
    for row in rows:
        _, height = at(columns[0], row)
        parts.append(
            f'<path d="M{left:.1f} {height:.1f}H{WIDTH - _RIGHT}" stroke="var(--rule)"/>'
            f'<text x="{left - 6:.1f}" y="{height + 4:.1f}" text-anchor="end">{_figure(row)}</text>'
        )
    for column in columns:
        place, bottom = at(column, rows[0])
        parts.append(f'<text x="{place:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{_figure(column)}</text>')
    parts.append(
        f'<text x="{(left + WIDTH - _RIGHT) / 2:.1f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x)}</text>'
    )
    for number, line in enumerate(drawn):
        parts += _line([at(*point) for point in line.points], number)
    title = escape(f"{y} over {x}: {', '.join(line.label for line in lines)}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}" fill="none">{"".join(parts)}</svg>'


def line_key(lines: Sequence[DrawnLine]) -> list[tuple[str, str]]:
    """By line of a chart a sample of it as `<svg>`, and its label; a chart of one line needs none."""
    if len(lines) < 2:
        return []
    return [
        (f'<svg viewBox="0 0 32 10" aria-hidden="true" fill="none">{"".join(_sample(number))}</svg>', line.label)
        for number, line in enumerate(lines)
    ]


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """The finite ones of `points`; of more than `most` the means of at most `most` stretches of equal length."""
    finite = [(px, py) for px, py in points if math.isfinite(px) and math.isfinite(py)]
    if len(finite) <= most:
        return finite
    stretch = -(-len(finite) // most)
    groups = [finite[start : start + stretch] for start in range(0, len(finite), stretch)]
    return [(sum(px for px, _ in group) / len(group), sum(py for _, py in group) / len(group)) for group in groups]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At least two round numbers in equal steps, the first at most `low` and the last at least `high`."""
    if not high > low:
        low, high = low - abs(low) / 2 - 0.5 * (low == 0), high + abs(high) / 2 + 0.5 * (high == 0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _figure(value: float) -> str:
    """A number of an axis: 0, 0.25, 2000, 20k, 3M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:.4g}"


def _line(points: Sequence[tuple[float, float]], number: int) -> Iterator[str]:
    style = number % len(_COLOURS)
    path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    dashes = f' stroke-dasharray="{_DASHES[style]}"' if _DASHES[style] else ""
    yield f'<path d="M{path}" stroke="var(--{_COLOURS[style]})" stroke-width="2"{dashes}/>'
    if len(points) <= _MOST_MARKED:
        yield from (_marker(px, py, style) for px, py in points)


def _sample(number: int) -> Iterator[str]:
    yield from _line([(0, 5), (32, 5)], number)
    yield _marker(16, 5, number % len(_COLOURS))


def _marker(x: float, y: float, style: int) -> str:
    fill = f'fill="var(--{_COLOURS[style]})"'
    if _MARKERS[style] == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" {fill}/>'
    corners = {
        "square": f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        "triangle": f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
        "diamond": f"M{x:.1f} {y - 4.5:.1f}l4 4.5l-4 4.5l-4 -4.5z",
    }
    return f'<path d="{corners[_MARKERS[style]]}" {fill}/>'
