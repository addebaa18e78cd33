"""Turns pixels into the input of a CLIP tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """How images are prepared for a tower; every bundle records it, because a mismatch silently gives wrong numbers."""

    size: int  # side of the square image the attention pool was trained for, in pixels
    mean: tuple[float, ...] = OPENAI_MEAN  # per channel, of values in [0, 1]
    std: tuple[float, ...] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __call__(self, image: Image) -> Tensor:
        """An image as float32 (3, size, size), resized, cropped and normalised as in open_clip's evaluation."""
        import torch

        pixels = torch.from_numpy(np.array(self._squared(image).convert("RGB")))
        return self.normalise(pixels[None])[0].contiguous()

    def _squared(self, image: Image) -> Image:
        """The image as a square: its middle, or the whole with a black border ("longest") or stretched ("squash")."""
        from PIL.Image import Resampling

        size, (width, height) = self.size, image.size
        sides = (size, size)
        if self.resize_mode == "shortest":
            sides = (max(size, int(size * width / height)), max(size, int(size * height / width)))
        elif self.resize_mode == "longest":
            ratio = max(height, width) / size
            sides = (round(width / ratio), round(height / ratio))
        kind = Resampling.BILINEAR if self.interpolation == "bilinear" else Resampling.BICUBIC
        resized = image if image.size == sides else image.resize(sides, kind)
        # Everything outside the image is black.
        left, top = (round((side - size) / 2) if side > size else -((size - side) // 2) for side in sides)
        return resized.crop((left, top, left + size, top + size))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) RGB in [0, 255] -> float32 (B, 3, H, W), channels last in memory."""
        import torch

        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        pixels = images.to(torch.float32, copy=True)
        # One image at a time: it stays in the cache during the three operations, and a batch would not.
        for image in pixels:
            image.div_(255).sub_(mean).div_(std)
        return pixels.permute(0, 3, 1, 2)

    def normalised(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What `normalise` computes, bit for bit, for one image (H, W, 3) in one thread; the channels stay last.

        torch would start threads of its own for every thread that calls it, beside those in which the model works.
        """
        pixels = image.astype(np.float32)
        rows = pixels.reshape(len(image), -1)  # whole rows are four times as fast as three numbers at a time
        rows /= np.float32(255)
        rows -= np.tile(np.array(self.mean, np.float32), image.shape[1])
        rows /= np.tile(np.array(self.std, np.float32), image.shape[1])
        return pixels
