"""The six grounds of `shapes`. Each texture maps (stream, (H, W)) to a float32 image (H, W, 3) in [0, 255]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from opentrans_cli.datasets.shapes.noise import Floats, Stream, value_noise

Shape = tuple[int, int]


def _blend(low: tuple[int, int, int], high: tuple[int, int, int], amount: Floats) -> Floats:
    start = np.array(low, dtype=np.float32)
    return start + amount[..., None] * (np.array(high, dtype=np.float32) - start)


def _triangle_wave(position: Floats) -> Floats:
    # Period 1, values in [0, 1]; stands in for a sine, which differs between platforms.
    return np.abs((position - np.floor(position)) * np.float32(2) - np.float32(1))


def _cells(shape: Shape, pixels: int) -> Shape:
    return max(2, shape[0] // pixels), max(2, shape[1] // pixels)


def grass(stream: Stream, shape: Shape) -> Floats:
    """Green, with upright blades."""
    blades = value_noise(stream, shape, (max(2, shape[0] // 7), max(2, shape[1] // 2)))
    patches = value_noise(stream, shape, _cells(shape, 24))
    return _blend((38, 84, 24), (132, 178, 74), blades * np.float32(0.7) + patches * np.float32(0.3))


def sky(stream: Stream, shape: Shape) -> Floats:
    """Light blue, paler towards the bottom, with soft clouds."""
    fall = (np.arange(shape[0], dtype=np.float32) / np.float32(shape[0]))[:, None]
    air = _blend((96, 158, 226), (188, 220, 244), np.broadcast_to(fall, shape))
    clouds = value_noise(stream, shape, _cells(shape, 20)) * np.float32(1.6) - np.float32(0.75)
    return air + np.clip(clouds, 0, 1)[..., None] * (np.float32(250) - air)


def sand(stream: Stream, shape: Shape) -> Floats:
    """Tan, with fine grains and faint dunes."""
    grains = stream.uniform(*shape)
    dunes = value_noise(stream, shape, (max(2, shape[0] // 8), 2))
    return _blend((178, 142, 92), (232, 206, 152), grains * np.float32(0.45) + dunes * np.float32(0.55))


def water(stream: Stream, shape: Shape) -> Floats:
    """Deep teal, with long level waves."""
    rows = np.arange(shape[0], dtype=np.float32)[:, None] * np.float32(1 / stream.between(7, 12))
    waves = _triangle_wave(rows + value_noise(stream, shape, (3, 4)) * np.float32(1.7))
    glitter = value_noise(stream, shape, (max(2, shape[0] // 2), max(2, shape[1] // 9)))
    return _blend((12, 58, 92), (74, 148, 172), waves * np.float32(0.6) + glitter * np.float32(0.4))


def brick(stream: Stream, shape: Shape) -> Floats:
    """Reddish brown bricks in courses, with pale mortar."""
    height, width = 8 + stream.below(4), 16 + stream.below(8)
    row = np.arange(shape[0]) + stream.below(height)
    course = row // height
    column = np.arange(shape[1])[None, :] + (course % 2)[:, None] * (width // 2) + stream.below(width)
    tones = stream.uniform(int(course[-1]) + 1, int(column.max()) // width + 1)
    tone = tones[course[:, None], column // width] * np.float32(0.6) + stream.uniform(*shape) * np.float32(0.4)
    mortar = (row % height == 0)[:, None] | (column % width == 0)
    return np.where(mortar[..., None], np.float32(186), _blend((112, 52, 38), (170, 92, 66), tone))


def snow(stream: Stream, shape: Shape) -> Floats:
    """White, with bluish hollows and sparkles."""
    drifts = value_noise(stream, shape, _cells(shape, 18))
    sparkle = (stream.uniform(*shape) > np.float32(0.97)).astype(np.float32)
    return _blend((206, 216, 234), (244, 246, 250), np.minimum(drifts + sparkle, np.float32(1)))


TEXTURES: dict[str, Callable[[Stream, Shape], Floats]] = {
    "grass": grass,
    "sky": sky,
    "sand": sand,
    "water": water,
    "brick": brick,
    "snow": snow,
}
