"""Losses on class scores. Shapes: B images, C classes, H W pixels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pixel_cross_entropy(
    scores: Tensor, label_map: Tensor, ignore_index: int, *, labelled: Tensor | float | None = None
) -> Tensor:
    """Cross-entropy summed over the labelled pixels and divided by `labelled`, 0-d; without any, zero with zero
    gradients.

    `scores`: (B, C, H, W), unnormalised. `label_map`: int64 (B, H, W), classes 0 to C - 1, or `ignore_index`.
    `labelled`: how many labelled pixels the whole batch has of which this is a part; None: this is the whole.
    """
    if labelled is None:
        labelled = (label_map != ignore_index).sum().clamp(min=1)
    return F.cross_entropy(scores, label_map, ignore_index=ignore_index, reduction="sum") / labelled
