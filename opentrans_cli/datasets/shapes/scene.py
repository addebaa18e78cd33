"""One scene of `shapes`: an image, its label map, and the caption that describes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.shapes.classes import COLOURS, GROUNDS, OBJECTS, SHAPES, caption
from opentrans_cli.datasets.shapes.noise import Floats, Stream
from opentrans_cli.datasets.shapes.objects import FILLS, OUTLINES, RGB
from opentrans_cli.datasets.shapes.textures import TEXTURES

RADIUS = (8.0, 18.0)
"""Smallest and largest radius of an object in pixels, whatever the size of the scene."""

VISIBLE = 0.35
"""An object counts (is named in the caption) when this share of its pixels is not hidden by others."""


@dataclass(frozen=True)
class Scene:
    """A rendered scene."""

    image: NDArray[np.uint8]  # (size, size, 3) RGB
    label_map: NDArray[np.uint8]  # (size, size), indices into CLASSES
    objects: tuple[int, ...]  # visible objects, class indices, in drawing order
    ground: int  # class index of the ground
    caption: str  # names every visible object and the ground


def _rotation(stream: Stream) -> tuple[float, float]:
    # Rational points of the circle, then a quarter turn at random: no sine or cosine, the same bits everywhere.
    t = stream.between(-0.41421356, 0.41421356)
    cosine, sine = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    for _ in range(stream.below(4)):
        cosine, sine = -sine, cosine
    return cosine, sine


def _draw(canvas: Floats, owners: NDArray[np.uint8], stream: Stream, *, mark: int) -> tuple[int, int]:
    """Paint one random object into `canvas` and `owners`; returns its class index and its number of pixels."""
    colour, shape = stream.below(len(COLOURS)), stream.below(len(SHAPES))
    fill = FILLS[tuple(FILLS)[stream.below(len(FILLS))]]
    radius = stream.between(*RADIUS)
    cosine, sine = _rotation(stream)
    height, width = owners.shape
    # Centres keep most of the object inside the scene.
    y, x = stream.between(radius * 0.7, height - radius * 0.7), stream.between(radius * 0.7, width - radius * 0.7)
    rows = slice(max(0, int(y - radius)), min(height, int(y + radius) + 2))
    columns = slice(max(0, int(x - radius)), min(width, int(x + radius) + 2))
    dy = (np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(y)) * np.float32(1 / radius)
    dx = (np.arange(columns.start, columns.stop, dtype=np.float32)[None] - np.float32(x)) * np.float32(1 / radius)
    u = dx * np.float32(cosine) + dy * np.float32(sine)
    v = dy * np.float32(cosine) - dx * np.float32(sine)
    inside = OUTLINES[SHAPES[shape]](u, v)
    jitter = (stream.uniform(3) - np.float32(0.5)) * np.float32(26)
    tone = (np.array(RGB[COLOURS[colour]], dtype=np.float32) + jitter) * fill(u, v)[..., None]
    np.copyto(canvas[rows, columns], tone, where=inside[..., None])
    owners[rows, columns][inside] = mark
    return colour * len(SHAPES) + shape, int(np.count_nonzero(inside))


def _finish(canvas: Floats, stream: Stream) -> NDArray[np.uint8]:
    """Light, a slight colour cast and sensor noise; back to uint8."""
    light = np.float32(stream.between(0.72, 1.12)) + (stream.uniform(3) - np.float32(0.5)) * np.float32(0.1)
    octets = stream.octets(2 * canvas.size).reshape(2, *canvas.shape).astype(np.int16)
    grain = (octets[0] + octets[1] - 255).astype(np.float32) * np.float32(stream.between(0.0, 0.1))
    return np.clip(canvas * light + grain, 0, 255).astype(np.uint8)


def render_scene(stream: Stream, *, size: int = 96, objects: tuple[int, int] = (1, 4)) -> Scene:
    """Render a random scene of `size` x `size` pixels with between `objects[0]` and `objects[1]` objects.

    The scene is a function of the stream alone: same seed and index, same bits, on every platform.
    """
    ground = stream.below(len(GROUNDS))
    canvas = TEXTURES[GROUNDS[ground]](stream, (size, size))
    owners = np.zeros((size, size), dtype=np.uint8)
    count = objects[0] + stream.below(objects[1] - objects[0] + 1)
    drawn = [_draw(canvas, owners, stream, mark=mark) for mark in range(1, count + 1)]
    left = np.bincount(owners.ravel(), minlength=count + 1)[1:]
    visible = tuple(
        label for (label, pixels), seen in zip(drawn, left, strict=True) if seen >= VISIBLE * max(pixels, 1)
    )
    lookup = np.array([len(OBJECTS) + ground, *(label for label, _ in drawn)], dtype=np.uint8)
    return Scene(
        image=_finish(canvas, stream),
        label_map=lookup[owners],
        objects=visible,
        ground=len(OBJECTS) + ground,
        caption=caption(tuple(OBJECTS[label] for label in visible), GROUNDS[ground]),
    )
