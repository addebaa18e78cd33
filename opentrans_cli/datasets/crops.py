"""Random training crops: scaled, cut or padded to a square, mirrored; a function of (seed, number) alone."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.images import Shape, resize_image, resize_label_map
from opentrans_cli.datasets.streams import Stream

PADDING = (124, 116, 104)
"""RGB of the padding: the mean colour of CLIP's training images, which normalises to about zero."""

ScaleOf = Literal["image", "crop"]
"""What a random factor multiplies: the image's own size, or the size at which the whole image just fits into the crop
(detectron2's ResizeScale; with factors of 0.1 to 2.0 that is large-scale jitter, Ghiasi et al. 2021).
"""

_SALT = 0x63726F7073  # keeps these numbers apart from those of other users of the same seed
_STEPS = 1024


def training_crop(
    sample: Sample,
    *,
    size: int,
    seed: int,
    number: int,
    ignore_index: int,
    flip: bool = True,
    scale: tuple[float, float] = (0.75, 1.5),
    scale_of: ScaleOf = "image",
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Image (size, size, 3) and label map (size, size) of a random part of `sample`.

    The image is resized by a random factor from `scale`, relative to `scale_of`; its aspect ratio is kept. A random
    square is cut out. A smaller image is placed at random on PADDING with label `ignore_index`. With `flip`, half of
    all crops are mirrored. The same sample, seed and number give the same crop. ValueError without a label map.
    """
    if sample.label_map is None:
        raise ValueError(f"sample '{sample.name}' has no label map")
    stream = Stream(seed ^ _SALT, number)
    factor = scale[0] + (scale[1] - scale[0]) * (stream.below(_STEPS + 1) / _STEPS)
    height, width = sample.image.shape[:2]
    if scale_of == "crop":
        factor *= min(size / height, size / width)
    shape = (max(1, round(height * factor)), max(1, round(width * factor)))
    places = tuple(_placed(stream, extent, size) for extent in shape)
    square, labels = _cut(sample.image, sample.label_map, shape, places, size=size, ignore_index=ignore_index)
    if flip and stream.below(2):
        square, labels = square[:, ::-1].copy(), labels[:, ::-1].copy()
    return square, labels


def _cut(
    image: NDArray[np.uint8],
    label_map: NDArray[Any],
    shape: Shape,
    places: tuple[tuple[slice, slice], ...],
    *,
    size: int,
    ignore_index: int,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The crop before it is mirrored: image and label map are resized to `shape` and cut as given by `places`."""
    if shape != image.shape[:2]:
        image, label_map = resize_image(image, shape), resize_label_map(label_map, shape)
    (source_y, target_y), (source_x, target_x) = places
    square = np.empty((size, size, 3), dtype=np.uint8)
    square[:] = PADDING
    labels = np.full((size, size), ignore_index, dtype=np.int64)
    square[target_y, target_x] = image[source_y, source_x]
    labels[target_y, target_x] = label_map[source_y, source_x]
    return square, labels


def _placed(stream: Stream, extent: int, size: int) -> tuple[slice, slice]:
    """Along one axis, which pixels of the image go to which pixels of the crop."""
    offset = stream.below(abs(extent - size) + 1)
    length = min(extent, size)
    if extent >= size:
        return slice(offset, offset + length), slice(0, length)
    return slice(0, length), slice(offset, offset + length)
