"""Regions of labelled images: their pictures for the teacher, and their embeddings from the student.

A region is all pixels of one class in one image. Shapes: B images of H x W pixels, R regions of all of them, h x w
feature cells, D embedding. Regions are two int64 (R,) tensors, `image_of` and `class_of`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

GREY = 128
"""What stands around a region in its picture, in each of R, G and B."""

SMALLEST_REGION = 0.5
"""Regions that cover less of the feature grid, in cells, are dropped: their embedding would be their neighbours'."""

Resize = Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]]
"""uint8 (H, W, 3), (height, width) -> uint8 (height, width, 3)."""


def region_picture(
    image: NDArray[np.uint8], region: NDArray[np.bool_], *, size: int, resize: Resize
) -> NDArray[np.uint8]:
    """The teacher's input for `region` (H, W) of `image` (H, W, 3): uint8 (size, size, 3).

    Pixels outside are grey. The region's bounding box is cut out and resized without keeping its aspect ratio: a tower
    takes squares, and padding would add more grey (OpenTrans, arXiv 2404.07448, Sec. 3.2, as published).
    ValueError for an empty region.
    """
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    if not len(rows):
        raise ValueError("a region needs at least one pixel")
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return resize(np.where(region[box][..., None], image[box], np.uint8(GREY)), (size, size))


def region_pictures(
    image: NDArray[np.uint8],
    label_map: NDArray[np.int64],
    classes: NDArray[np.int64],
    *,
    size: int,
    resize: Resize,
) -> NDArray[np.uint8]:
    """The pictures of several classes of one image, uint8 (R, size, size, 3), in the order of `classes`."""
    pictures = [region_picture(image, label_map == index, size=size, resize=resize) for index in classes]
    return np.stack(pictures) if pictures else np.zeros((0, size, size, 3), dtype=np.uint8)


def find_regions(label_maps: Tensor, *, grid: tuple[int, int], ignored: int) -> tuple[Tensor, Tensor]:
    """`image_of` and `class_of` of the regions in `label_maps` (B, H, W), by image and class, both ascending.

    Left out: pixels of the id `ignored`, and regions that vanish on the feature grid `grid` (h, w).
    """
    cells = grid[0] * grid[1] / label_maps[0].numel()  # per pixel
    image_of, class_of = [], []
    for index, label_map in enumerate(label_maps):
        classes, pixels = label_map.unique(return_counts=True)
        classes = classes[(classes != ignored) & (pixels * cells >= SMALLEST_REGION)]
        image_of.append(torch.full_like(classes, index))
        class_of.append(classes)
    return torch.cat(image_of), torch.cat(class_of)


def pool_regions(embedding: Tensor, label_maps: Tensor, *, image_of: Tensor, class_of: Tensor) -> Tensor:
    """Mean embedding (R, D) of each region: cells of `embedding` (B, D, h, w) weighted by their area inside the region.

    Cells are not normalised, as the values of CLIP's attention pool are not: the result is that of the pool with equal
    attention to every cell inside the region. `label_maps` is (B, H, W), `image_of` ascending; all on one
    device. Memory is needed for the areas of the regions of one image at a time.
    """
    height, width = embedding.shape[2:]
    pooled = [embedding.new_zeros(0, embedding.shape[1])]
    for index in image_of.unique_consecutive().tolist():
        inside = label_maps[index] == class_of[image_of == index][:, None, None]
        share = F.adaptive_avg_pool2d(inside.to(embedding.dtype), (height, width)).flatten(1)
        pooled.append(share / share.sum(1, keepdim=True) @ embedding[index].flatten(1).T)
    return torch.cat(pooled)
