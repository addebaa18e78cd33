"""The size at which a segmentor works; its output is resized back to the size of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from opentrans_cli.datasets.images import resize_image


@dataclass(frozen=True)
class Sides:
    """Pictures are resized to this short side, unless the long side would exceed its limit; both in pixels."""

    short: int
    long: int

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the resized picture, rounded as in detectron2."""
        scale = self.short / min(height, width)
        # As in detectron2, the long side is limited after the short one was set.
        sides = (height * scale, width * scale)
        scale = min(1.0, self.long / max(sides))
        first, second = (int(side * scale + 0.5) for side in sides)
        return max(first, 1), max(second, 1)

    def resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """`image` (H, W, 3) resized bilinearly."""
        shape = self.shape(image.shape[0], image.shape[1])
        return image if shape == image.shape[:2] else resize_image(image, shape, method="bilinear")


PUBLISHED = Sides(short=800, long=1333)
"""How FC-CLIP, Han et al. and Mask2Former look at pictures in their tests."""


def at_size(maps: Tensor, height: int, width: int) -> Tensor:
    """`maps` (C, h, w) resized bilinearly to (C, height, width)."""
    if maps.shape[-2:] == (height, width):
        return maps
    return F.interpolate(maps[None], size=(height, width), mode="bilinear", align_corners=False)[0]
