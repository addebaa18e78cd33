"""From pixels to what a CLIP tower expects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """How a tower wants its images; recorded in every bundle, because a mismatch gives silently wrong numbers."""

    size: int  # side of the square image the attention pool was trained for, in pixels
    mean: tuple[float, ...] = OPENAI_MEAN  # per channel, of values in [0, 1]
    std: tuple[float, ...] = OPENAI_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __call__(self, image: Image) -> Tensor:
        """A picture -> float32 (3, size, size), resized, cropped and normalised as open_clip does it to evaluate."""
        return cast("Tensor", self._transform(image))

    @cached_property
    def _transform(self) -> Callable[[Image], Any]:
        from open_clip import image_transform

        return image_transform(
            self.size,
            is_train=False,
            mean=self.mean,
            std=self.std,
            interpolation=self.interpolation,
            resize_mode=self.resize_mode,
        )

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) RGB in [0, 255] -> float32 (B, 3, H, W), channels last in memory."""
        import torch

        mean, std = (torch.tensor(values, device=images.device) for values in (self.mean, self.std))
        pixels = images.to(torch.float32, copy=True)
        # Image by image: one stays in the cache while three operations go over it, a batch does not.
        for image in pixels:
            image.div_(255).sub_(mean).div_(std)
        return pixels.permute(0, 3, 1, 2)
