"""Outlines, fills and colours of the objects of `shapes`.

Coordinates: u and v are float32 (h, w), the pixel centres in the object's own frame, where its circumscribed circle has
radius 1. Outlines return bool (h, w); fills return the brightness factor, float32 (h, w).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.shapes.noise import Floats

Outline = Callable[[Floats, Floats], NDArray[np.bool_]]
Fill = Callable[[Floats, Floats], Floats]

RGB = {
    "red": (214, 32, 36),
    "orange": (242, 138, 20),
    "yellow": (244, 226, 40),
    "green": (30, 156, 52),
    "cyan": (44, 214, 222),
    "blue": (34, 62, 214),
    "purple": (146, 44, 184),
    "black": (26, 24, 26),
}

# Unit normals of a regular pentagon, written out so that no libm rounding can enter.
_PENTAGON = (
    (0.0, 1.0),
    (0.9510565, 0.3090170),
    (0.5877853, -0.8090170),
    (-0.5877853, -0.8090170),
    (-0.9510565, 0.3090170),
)


def _star(u: Floats, v: Floats) -> NDArray[np.bool_]:
    # The pentagram: points that lie outside at most one of the five lines of its inner pentagon.
    outside = np.zeros(u.shape, dtype=np.int8)
    for a, b in _PENTAGON:
        outside += u * np.float32(a) + v * np.float32(b) > np.float32(0.33)
    return (outside <= 1) & (u * u + v * v <= np.float32(1))


OUTLINES: dict[str, Outline] = {
    "circle": lambda u, v: u * u + v * v <= np.float32(0.85),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) <= np.float32(0.76),
    "triangle": lambda u, v: (v >= np.float32(-0.55)) & (np.abs(u) * np.float32(1.7320508) + v <= np.float32(1)),
    "star": _star,
    "cross": lambda u, v: (
        (np.minimum(np.abs(u), np.abs(v)) <= np.float32(0.27)) & (np.maximum(np.abs(u), np.abs(v)) <= np.float32(0.92))
    ),
    "ring": lambda u, v: np.abs(u * u + v * v - np.float32(0.66)) <= np.float32(0.32),
    "crescent": lambda u, v: (
        (u * u + v * v <= np.float32(0.95))
        & ((u - np.float32(0.45)) * (u - np.float32(0.45)) + v * v > np.float32(0.52))
    ),
    "bar": lambda u, v: (np.abs(u) <= np.float32(0.97)) & (np.abs(v) <= np.float32(0.26)),
}


def _parity(*cells: Floats) -> Floats:
    total = sum(np.floor(cell).astype(np.int32) for cell in cells)
    return np.where(np.asarray(total) & 1, np.float32(0.66), np.float32(1.04))


def _dots(u: Floats, v: Floats) -> Floats:
    du, dv = u * np.float32(2.5), v * np.float32(2.5)
    du, dv = du - np.floor(du) - np.float32(0.5), dv - np.floor(dv) - np.float32(0.5)
    return np.where(du * du + dv * dv < np.float32(0.09), np.float32(0.6), np.float32(1.04))


FILLS: dict[str, Fill] = {
    "solid": lambda u, v: np.ones_like(u),
    "stripes": lambda u, v: _parity(u * np.float32(3)),
    "checks": lambda u, v: _parity(u * np.float32(2.2), v * np.float32(2.2)),
    "dots": _dots,
    "shaded": lambda u, v: np.float32(0.9) + v * np.float32(0.22),
}
