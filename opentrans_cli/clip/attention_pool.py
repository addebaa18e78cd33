"""Features pooled inside masks. Shapes: B images, Q masks, C channels, D embedding, h w cells.

The two poolings of FC-CLIP (Yu et al. 2023, arXiv 2308.02487, Sec. 3.3): the mean, and CLIP's attention pool, where one
query per image, the mean of all cells, attends to the cells inside a mask alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mask_means(features: Tensor, masks: Tensor) -> Tensor:
    """Mean feature (B, Q, C) of `features` (B, C, h, w) in each of `masks`, bool (B, Q, h, w); 0 if it is empty."""
    inside = masks.flatten(2).to(features.dtype)
    shares = inside / inside.sum(2, keepdim=True).clamp(min=1)
    return torch.matmul(shares, features.flatten(2).transpose(1, 2))


def masked_attention_pool(pool: Any, features: Tensor, masks: Tensor) -> Tensor:
    """Embeddings (B, Q, D) of `masks`, bool (B, Q, h, w), in the joint space, of any length.

    `pool`: open_clip's AttentionPool2d. `features`: layer4's (B, C, h, w). Unlike in CLIP, the mean is no key: a mask
    that covers everything pools all cells, but not their mean beside them. A mask without a cell pools like one
    that covers everything; its embedding is finite and says nothing about it.
    """
    cells = features.flatten(2).transpose(1, 2)  # (B, hw, C)
    place = pool.positional_embedding.to(cells.dtype)
    keyed = cells + _positions(place[1:], (features.shape[2], features.shape[3]))
    query = _heads(pool.q_proj(cells.mean(1, keepdim=True) + place[:1]), pool.num_heads)
    key, value = (_heads(project(keyed), pool.num_heads) for project in (pool.k_proj, pool.v_proj))
    # The query is the same for every mask, so its scores (B, heads, 1, hw) are computed once for all of them.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
    inside = masks.flatten(2)
    inside = inside | ~inside.any(2, keepdim=True)
    weights = scores.masked_fill(~inside[:, None], float("-inf")).softmax(-1)  # (B, heads, Q, hw)
    embedding: Tensor = pool.c_proj((weights @ value).transpose(1, 2).flatten(2))
    return embedding


def _positions(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Positional embeddings (h w, C) of the cells, from those of the square grid CLIP was trained on."""
    side = round(grid.shape[0] ** 0.5)
    square = grid.T.reshape(1, -1, side, side)
    return F.interpolate(square, size=size, mode="bilinear", align_corners=False).flatten(2)[0].T


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, n, C) -> (B, heads, n, C / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)
