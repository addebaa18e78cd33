"""Per-pixel embeddings against text. Shapes: B images, S texts, D embedding, h w cells, H W pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_SCALE = 1 / 0.07  # CLIP's own initial value (Radford et al. 2021, Sec. 2.5)
MAX_SCALE = 100.0  # CLIP's own bound on exp(logit_scale)


class CosineClassifier(nn.Module):
    """Cosine of pixel and text embeddings times exp(logit_scale), at most 100.

    `scale` is the initial value of exp(logit_scale), which is learned unless `learned` is false.
    """

    logit_scale: Tensor

    def __init__(self, *, scale: float = INITIAL_SCALE, learned: bool = True) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def forward(self, embedding: Tensor, text: Tensor) -> Tensor:
        """Scores (B, S, h, w) of `embedding` (B, D, h, w) and `text` (S, D); rows of `text` have length 1."""
        cosine = F.conv2d(F.normalize(embedding, dim=1), text[:, :, None, None])
        return cosine * self.logit_scale.exp().clamp(max=MAX_SCALE)


def resize(maps: Tensor, like: Tensor) -> Tensor:
    """`maps` (B, C, h, w) bilinearly at the height and width of `like` (..., H, W); corners are not aligned.

    Scores are resized, not embeddings: the product with the text is linear, so it may come first, and there
    it costs a fraction (H W / h w) of the multiplications.
    """
    size = (like.shape[-2], like.shape[-1])
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
