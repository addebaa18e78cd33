"""The spectrum of a layer with its fitted tail, as a small SVG for a page."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from opentrans_cli.pictures.charts import DrawnLayer
from opentrans_cli.pictures.esd import facts, fitted, log_density

_WIDTH, _HEIGHT = 160, 96
_ROOM = 0.6  # decades of free space above the highest density and below the lowest


def spectrum_panel(layer: DrawnLayer) -> str:
    """An `<svg>` with the density of the eigenvalues of `layer`, the line of its tail, and a dotted one at xmin.

    Both axes are logarithmic and have no numbers, so a power law is a line of slope -alpha; each panel has its own.
    Zeros, which have no logarithm, are counted but not drawn.
    """
    density_B, edges_E = log_density(layer.eigenvalues)
    parts: list[str] = []
    seen = density_B > 0
    if seen.any():
        logs = np.log10(np.where(seen, density_B, 1.0))
        low, high = float(logs[seen].min()) - _ROOM, float(logs[seen].max()) + _ROOM
        ends_E = np.log10(edges_E)
        line = _tail(layer)
        if line is not None:
            high = max(high, line[0][1] + 0.2)
        left, right = float(ends_E[0]) - 0.05, float(ends_E[-1]) + 0.05

        def at(x: float, y: float) -> str:
            across = (x - left) / (right - left)
            up = min(max((y - low) / (high - low), -1.0), 1.0)  # a steep line leaves the panel
            return f"{across * _WIDTH:.1f} {_HEIGHT - up * _HEIGHT:.1f}"

        steps = [at(float(ends_E[0]), low)]
        for place, value in enumerate(logs):
            top = float(value) if seen[place] else low
            steps += [at(float(ends_E[place]), top), at(float(ends_E[place + 1]), top)]
        steps.append(at(float(ends_E[-1]), low))
        parts.append(f'<path d="M{"L".join(steps)}" fill="var(--bar)"/>')
        if line is not None:
            start, end = line
            parts.append(f'<path d="M{at(*start)}L{at(*end)}" stroke="var(--two)" stroke-width="2"/>')
            parts.append(
                f'<path d="M{at(start[0], low)}L{at(start[0], high)}" stroke="var(--ink)" stroke-dasharray="2 3"/>'
            )
    parts.append(f'<path d="M0 {_HEIGHT}H{_WIDTH}" stroke="var(--rule)"/>')
    title = escape(f"spectrum of {layer.name}: {facts(layer)}")
    clip = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" overflow="hidden">{"".join(parts)}</svg>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}" fill="none">{clip}</svg>'


def _tail(layer: DrawnLayer) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Both ends of the line of the tail in log10 of eigenvalue and density; None without a fit."""
    if not fitted(layer):
        return None
    share = layer.fit.tail_size / len(layer.eigenvalues)
    start = math.log10(share * (layer.alpha - 1) / layer.fit.xmin)
    first, last = math.log10(layer.fit.xmin), math.log10(max(float(layer.eigenvalues[-1]), layer.fit.xmin))
    return (first, start), (last, start - layer.alpha * (last - first))
