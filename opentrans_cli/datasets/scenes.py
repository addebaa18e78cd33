"""The scenes of the embedded data set `shapes`: coloured shapes on textured grounds, with label map and caption.

A scene is a function of its stream, with the same bits on every platform. It uses no sine, cosine or other function of
the maths library, because their last bits differ. Coordinates u and v are float32 (h, w), the pixel centres in the
frame of an object whose circumscribed circle has radius 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.streams import Floats, Stream

Shape = tuple[int, int]

RADIUS = (8.0, 18.0)
"""Smallest and largest radius of an object in pixels, whatever the size of the scene."""

VISIBLE = 0.35
"""An object counts (is named in the caption) when this share of its pixels is not hidden by others."""

_RGB = {
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


# (u, v) -> which pixels belong to the object, bool (h, w).
_OUTLINES: dict[str, Callable[[Floats, Floats], NDArray[np.bool_]]] = {
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


# solid, stripes, checks, dots, shaded: (u, v) -> factor of the brightness, float32 (h, w).
_FILLS: tuple[Callable[[Floats, Floats], Floats], ...] = (
    lambda u, v: np.ones_like(u),
    lambda u, v: _parity(u * np.float32(3)),
    lambda u, v: _parity(u * np.float32(2.2), v * np.float32(2.2)),
    _dots,
    lambda u, v: np.float32(0.9) + v * np.float32(0.22),
)


@lru_cache(maxsize=64)
def _between_knots(cells: int, size: int) -> tuple[NDArray[np.intp], Floats]:
    # Position of each pixel in a row of `cells` + 1 knots: left knot and fraction.
    position = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / size)
    left = position.astype(np.intp)
    return left, position - left.astype(np.float32)


def _value_noise(stream: Stream, shape: Shape, cells: Shape) -> Floats:
    """Smooth noise (H, W) float32 in [0, 1): random knots on a grid of `cells`, bilinear in between."""
    knots = stream.uniform(cells[0] + 1, cells[1] + 1)
    top, down = _between_knots(cells[0], shape[0])
    left, along = _between_knots(cells[1], shape[1])
    rows = knots[top] + (knots[top + 1] - knots[top]) * down[:, None]
    columns = rows[:, left]
    return columns + (rows[:, left + 1] - columns) * along


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], amount: Floats) -> Floats:
    start = np.array(low, dtype=np.float32)
    return start + amount[..., None] * (np.array(high, dtype=np.float32) - start)


def _triangle_wave(position: Floats) -> Floats:
    # Period 1, values in [0, 1]; stands in for a sine.
    return np.abs((position - np.floor(position)) * np.float32(2) - np.float32(1))


def _cells(shape: Shape, pixels: int) -> Shape:
    return max(2, shape[0] // pixels), max(2, shape[1] // pixels)


def _grass(stream: Stream, shape: Shape) -> Floats:
    """Green, with upright blades."""
    blades = _value_noise(stream, shape, (max(2, shape[0] // 7), max(2, shape[1] // 2)))
    patches = _value_noise(stream, shape, _cells(shape, 24))
    return _blend((38, 84, 24), (132, 178, 74), blades * np.float32(0.7) + patches * np.float32(0.3))


def _sky(stream: Stream, shape: Shape) -> Floats:
    """Light blue, paler towards the bottom, with soft clouds."""
    fall = (np.arange(shape[0], dtype=np.float32) / np.float32(shape[0]))[:, None]
    air = _blend((96, 158, 226), (188, 220, 244), np.broadcast_to(fall, shape))
    clouds = _value_noise(stream, shape, _cells(shape, 20)) * np.float32(1.6) - np.float32(0.75)
    return air + np.clip(clouds, 0, 1)[..., None] * (np.float32(250) - air)


def _sand(stream: Stream, shape: Shape) -> Floats:
    """Tan, with fine grains and faint dunes."""
    grains = stream.uniform(*shape)
    dunes = _value_noise(stream, shape, (max(2, shape[0] // 8), 2))
    return _blend((178, 142, 92), (232, 206, 152), grains * np.float32(0.45) + dunes * np.float32(0.55))


def _water(stream: Stream, shape: Shape) -> Floats:
    """Deep teal, with long level waves."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(1 / stream.between(7, 12))
    waves = _triangle_wave(rows + _value_noise(stream, shape, (3, 4)) * np.float32(1.7))
    glitter = _value_noise(stream, shape, (max(2, shape[0] // 2), max(2, shape[1] // 9)))
    return _blend((12, 58, 92), (74, 148, 172), waves * np.float32(0.6) + glitter * np.float32(0.4))


def _brick(stream: Stream, shape: Shape) -> Floats:
    """Reddish brown bricks in courses, with pale mortar."""
    height, width = 8 + stream.below(4), 16 + stream.below(8)
    row = np.arange(shape[0]) + stream.below(height)
    course = row // height
    column = np.arange(shape[1])[None, :] + (course % 2)[:, None] * (width // 2) + stream.below(width)
    tones = stream.uniform(int(course[-1]) + 1, int(column.max()) // width + 1)
    tone = tones[course[:, None], column // width] * np.float32(0.6) + stream.uniform(*shape) * np.float32(0.4)
    mortar = (row % height == 0)[:, None] | (column % width == 0)
    return np.where(mortar[..., None], np.float32(186), _blend((112, 52, 38), (170, 92, 66), tone))


def _snow(stream: Stream, shape: Shape) -> Floats:
    """White, with bluish hollows and sparkles."""
    drifts = _value_noise(stream, shape, _cells(shape, 18))
    sparkle = (stream.uniform(*shape) > np.float32(0.97)).astype(np.float32)
    return _blend((206, 216, 234), (244, 246, 250), np.minimum(drifts + sparkle, np.float32(1)))


# (stream, (H, W)) -> float32 (H, W, 3) in [0, 255]
_TEXTURES: dict[str, Callable[[Stream, Shape], Floats]] = {
    "grass": _grass,
    "sky": _sky,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "snow": _snow,
}

COLOURS, SHAPES, GROUNDS = tuple(_RGB), tuple(_OUTLINES), tuple(_TEXTURES)
OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
CLASSES = OBJECTS + GROUNDS
"""64 objects (index = 8 * colour + shape), then the 6 grounds."""

# A Latin pattern: every colour and every shape is seen six times and unseen twice, so an unseen class is always a
# new combination of known words, and no colour or shape is easier than another.
UNSEEN = tuple(
    f"{colour} {shape}" for c, colour in enumerate(COLOURS) for s, shape in enumerate(SHAPES) if (c + s) % 4 == 0
)


def with_article(name: str) -> str:
    """`name` after "a" or "an"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def caption(objects: tuple[str, ...], ground: str | None) -> str:
    """A sentence that names `objects` (class names; may be empty if `ground` is given) and the ground."""
    things = " and ".join(with_article(name) for name in objects)
    if ground is None:
        return things
    return f"{things} on {ground}" if things else ground


@dataclass(frozen=True)
class Scene:
    """A rendered scene."""

    image: NDArray[np.uint8]  # (size, size, 3) RGB
    label_map: NDArray[np.uint8]  # (size, size), indices into CLASSES
    objects: tuple[int, ...]  # visible objects, class indices, in drawing order
    ground: int  # class index of the ground
    caption: str  # names every visible object and the ground


def render_scene(stream: Stream, *, size: int = 96, objects: tuple[int, int] = (1, 4)) -> Scene:
    """Render a random scene of `size` x `size` pixels with between `objects[0]` and `objects[1]` objects."""
    ground = stream.below(len(GROUNDS))
    canvas = _TEXTURES[GROUNDS[ground]](stream, (size, size))
    # 0: ground; else the number, from 1, of the object that was painted last
    marks = np.zeros((size, size), dtype=np.uint8)
    count = objects[0] + stream.below(objects[1] - objects[0] + 1)
    painted = [_paint(canvas, marks, stream, mark=mark) for mark in range(1, count + 1)]
    left = np.bincount(marks.ravel(), minlength=count + 1)[1:]
    visible = tuple(
        label for (label, pixels), seen in zip(painted, left, strict=True) if seen >= VISIBLE * max(pixels, 1)
    )
    lookup = np.array([len(OBJECTS) + ground, *(label for label, _ in painted)], dtype=np.uint8)
    return Scene(
        image=_finish(canvas, stream),
        label_map=lookup[marks],
        objects=visible,
        ground=len(OBJECTS) + ground,
        caption=caption(tuple(OBJECTS[label] for label in visible), GROUNDS[ground]),
    )


def _paint(canvas: Floats, marks: NDArray[np.uint8], stream: Stream, *, mark: int) -> tuple[int, int]:
    """Paint one random object into `canvas` and `marks`; returns its class index and its number of pixels."""
    colour, shape = stream.below(len(COLOURS)), stream.below(len(SHAPES))
    fill = _FILLS[stream.below(len(_FILLS))]
    radius = stream.between(*RADIUS)
    cosine, sine = _rotation(stream)
    height, width = marks.shape
    # Centres keep most of the object inside the scene.
    y, x = stream.between(radius * 0.7, height - radius * 0.7), stream.between(radius * 0.7, width - radius * 0.7)
    rows = slice(max(0, int(y - radius)), min(height, int(y + radius) + 2))
    columns = slice(max(0, int(x - radius)), min(width, int(x + radius) + 2))
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(y)) * np.float32(1 / radius)
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(x)) * np.float32(1 / radius)
    u = dx * np.float32(cosine) + dy * np.float32(sine)
    v = dy * np.float32(cosine) - dx * np.float32(sine)
    inside = _OUTLINES[SHAPES[shape]](u, v)
    jitter = (stream.uniform(3) - np.float32(0.5)) * np.float32(26)
    tone = (np.array(_RGB[COLOURS[colour]], dtype=np.float32) + jitter) * fill(u, v)[..., None]
    np.copyto(canvas[rows, columns], tone, where=inside[..., None])
    marks[rows, columns][inside] = mark
    return colour * len(SHAPES) + shape, int(np.count_nonzero(inside))


def _rotation(stream: Stream) -> tuple[float, float]:
    # Rational points of the circle, then a quarter turn at random.
    t = stream.between(-0.41421356, 0.41421356)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    for _ in range(stream.below(4)):
        cosine, sine = -sine, cosine
    return cosine, sine


def _finish(canvas: Floats, stream: Stream) -> NDArray[np.uint8]:
    """Light, a slight colour cast and sensor noise; back to uint8."""
    light = np.float32(stream.between(0.72, 1.12)) + (stream.uniform(3) - np.float32(0.5)) * np.float32(0.1)
    octets = stream.octets(2 * canvas.size).reshape(2, *canvas.shape).astype(np.int16)
    grain = (octets[0] + octets[1] - 255).astype(np.float32) * np.float32(stream.between(0.0, 0.1))
    return np.clip(canvas * light + grain, 0, 255).astype(np.uint8)
