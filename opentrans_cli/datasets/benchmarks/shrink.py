"""Large pictures and their label maps made smaller, in the way of the field's own converters.

They use OpenCV without its antialiasing: bilinear for photos, and for label maps the nearest pixel to the upper left.
The same is done here, so that label maps are equal to theirs pixel by pixel and photos up to one step of brightness.
(The 150-class masks of ADE20K itself were made otherwise: they take the pixel at the centre of each new one.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import Shape


def shrunk_shape(shape: Shape, shorter: int) -> Shape:
    """The (height, width) of a picture of `shape` whose shorter side becomes `shorter` pixels; a smaller one stays."""
    height, width = shape
    if min(shape) <= shorter:
        return shape
    if width >= height:
        return shorter, round(width / float(height) * shorter)
    return round(height / float(width) * shorter), shorter


def shrink_photo(image: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """`image`, uint8 (H, W, 3), resized to `shape` (height, width): bilinear between the four nearest pixels."""
    (upper, lower, down), (left, right, across) = (
        _neighbours(old, new) for old, new in zip(image.shape[:2], shape, strict=True)
    )
    down, across = down[:, None, None], across[:, None]
    rows = image[upper] * (1 - down) + image[lower] * down
    return np.rint(rows[:, left] * (1 - across) + rows[:, right] * across).astype(np.uint8)


def shrink_label_map(label_map: NDArray[np.int64], shape: Shape) -> NDArray[np.int64]:
    """`label_map` (H, W) resized to `shape` (height, width): the id at the upper left corner of each new pixel."""
    rows, columns = (_corners(old, new) for old, new in zip(label_map.shape, shape, strict=True))
    return label_map[np.ix_(rows, columns)]


def _corners(old: int, new: int) -> NDArray[np.int64]:
    step = 1 / (new / old)  # OpenCV turns the factor around twice, which decides where a corner meets a pixel's edge
    return np.minimum(np.floor(np.arange(new) * step).astype(np.int64), old - 1)


def _neighbours(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For the centre of each new pixel, the old pixels before and behind it, and the weight of the one behind."""
    centres = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    before = np.floor(centres).astype(np.int64)
    return before, np.minimum(before + 1, old - 1), (centres - before).astype(np.float32)
