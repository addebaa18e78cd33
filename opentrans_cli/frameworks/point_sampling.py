"""Points at which masks are compared, drawn for each image by itself, and what masks and label maps say there.

After PointRend (Kirillov et al. 2020, Sec. 3.1) as Mask2Former uses it (Cheng et al. 2022, Sec. 3.3). A point is (x, y)
in parts of the image, in [0, 1). Shapes: B images, N masks, P points, H W pixels, h w cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Corners(NamedTuple):
    """The four pixels around each point of a label map, and how much each of them counts (bilinear)."""

    classes: Tensor  # int64 (..., P, 4); `ignore` outside of the label map
    weights: Tensor  # float32 (..., P, 4)


def generator(draw: int, *, layer: int, purpose: str, device: torch.device) -> torch.Generator:
    """Random numbers that belong to one crop, one layer of the decoder and one purpose, whatever else is drawn.

    Thus neither the processes, nor the parts of a batch, nor the order of its images have a say.
    """
    digest = hashlib.blake2b(f"{draw} {layer} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_points(
    draws: Sequence[int], counts: Sequence[int], points: int, *, layer: int, purpose: str, device: torch.device
) -> Tensor:
    """Uniform points (sum of `counts`, P, 2), float32: for image b `counts[b]` sets of them."""
    parts = [
        torch.rand(
            count, points, 2, generator=generator(draw, layer=layer, purpose=purpose, device=device), device=device
        )
        for draw, count in zip(draws, counts, strict=True)
    ]
    return torch.cat(parts)


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """What `masks` (N, K, h, w) say at `points` (N, P, 2), bilinear, zero beyond their edges: (N, K, P)."""
    return F.grid_sample(masks, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def sample_labels(label_maps: Tensor, image_of: Tensor, points: Tensor, *, ignore: int) -> Corners:
    """The corners of `points` (N, P, 2), set n in image `image_of[n]`, int64 (N,), of `label_maps` (B, H, W).

    A label map gives the masks of all its classes at once, so that none of them is ever written out.
    """
    height, width = label_maps.shape[1:]
    place = points * points.new_tensor((width, height)) - 0.5
    first = place.floor()
    (x, y), (right, below) = (part.unbind(-1) for part in (first.long() + 1, place - first))
    # With a frame around it, no corner lies outside of the label map.
    framed = F.pad(label_maps, (1, 1, 1, 1), value=ignore)
    index = (image_of[:, None] * (height + 2) + y) * (width + 2) + x
    corners = index[..., None] + index.new_tensor((0, 1, width + 2, width + 3))
    left, above = 1 - right, 1 - below
    weights = torch.stack((above * left, above * right, below * left, below * right), -1)
    return Corners(framed.flatten().index_select(0, corners.flatten()).view_as(corners), weights)


def mask_values(corners: Corners, classes: Tensor) -> Tensor:
    """The masks of `classes`, int64, broadcast against the corners without their last dimension, at their points."""
    return corners.weights.masked_fill(corners.classes != classes[..., None], 0).sum(-1)


@torch.no_grad()
def uncertain_points(masks: Tensor, drawn: Tensor, *, points: int, importance: float) -> Tensor:
    """Of the points `drawn` for `masks` (N, h, w), (N, R, 2), those that are taken, (N, P, 2).

    The share `importance` of P are the points among the first R - (1 - importance) P whose logit is nearest to zero;
    the last (1 - importance) P are taken as they are.
    """
    uncertain = int(importance * points)
    looked_at, others = drawn.split([drawn.shape[1] - (points - uncertain), points - uncertain], 1)
    if not uncertain:
        return others
    doubt = -sample_masks(masks[:, None], looked_at)[:, 0].abs()
    chosen = doubt.topk(uncertain, dim=1, sorted=False).indices
    return torch.cat([looked_at.gather(1, chosen[..., None].expand(-1, -1, 2)), others], 1)
