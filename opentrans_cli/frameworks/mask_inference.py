"""Semantic, instance and panoptic segmentation from the classes and masks of queries.

After Mask2Former's own code (Cheng et al. 2022), which FC-CLIP and Han et al. share.
Shapes: B images, Q queries, C classes (logits have one more, the last, for no object), H W pixels, h w cells of
stride 4 of the padded image, N instances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.frameworks.mask_decoder import MASK_STRIDE, enlarge_masks

_ROWS = 8  # of cells at once: 250 masks of an image of 640 x 640 then take up 20 MB instead of 400
_EDGE = 1  # cells of the next band that bilinear enlarging looks at
_FOREGROUND = 0.5  # probability from which a pixel is in a mask
_ALL = slice(None)
_SMALLEST = 1e-6  # added to an area before division, as published


@dataclass(frozen=True)
class Instances:
    """Objects of one image, highest score first; they may overlap."""

    classes: Tensor  # int64 (N,), 0 to C - 1
    scores: Tensor  # (N,), in [0, 1]: of the class, times the mean probability inside the mask
    masks: Tensor  # bool (N, H, W)


@dataclass(frozen=True)
class Segment:
    """One region of a panoptic segmentation."""

    id: int  # its value in the map, from 1
    class_index: int
    thing: bool  # whether it is a single object; else it is all of its class in the image


@dataclass(frozen=True)
class Panoptic:
    """Every pixel of one image in one segment or in none."""

    ids: Tensor  # int32 (H, W), 0 for none
    segments: tuple[Segment, ...]


def semantic_scores(
    class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int], *, classes: slice = _ALL
) -> Tensor:
    """Scores of classes (B, C, H, W) at `size` (H, W), float32, at least 0; `classes` chooses some of them.

    The probability of a class times that of the mask, summed over queries; "no object" is left out.
    class_logits: (B, Q, C + 1). mask_logits: (B, Q, h, w).
    """
    shares = class_logits.float().softmax(-1)[..., :-1][..., classes].transpose(1, 2)
    bands = []
    for band in _enlarged_bands(mask_logits, size):
        scores = shares @ band.float().sigmoid().flatten(2)
        bands.append(scores.unflatten(2, band.shape[2:]))
    return torch.cat(bands, 2)


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    *,
    picture: tuple[int, int] | None = None,
    top: int = 100,
    things: Sequence[bool] | None = None,
) -> Instances:
    """Objects of one image at `size`: the `top` pairs of query and class, of which those of `things` stay.

    class_logits: (Q, C + 1). mask_logits: (Q, h, w). picture: the size (H, W) that the image had before it was resized
    to `size`; logits are resized to it before anything is decided, as published. things: by class; None keeps all.
    """
    probabilities = class_logits.float().softmax(-1)[:, :-1]
    count = probabilities.shape[1]
    scores, pairs = probabilities.flatten().topk(min(top, probabilities.numel()))
    if things is not None:
        kept = torch.tensor(things, device=pairs.device)[pairs % count]
        scores, pairs = scores[kept], pairs[kept]
    if not len(pairs):
        return Instances(pairs, scores, torch.zeros((0, *(picture or size)), dtype=torch.bool, device=pairs.device))
    queries, places = (pairs // count).unique(return_inverse=True)  # one query may be several classes
    masks = _at_picture(mask_logits[queries], size, picture)
    inside = masks > 0
    surely = (masks.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + _SMALLEST)
    scores, order = (scores * surely[places]).sort(descending=True, stable=True)
    return Instances((pairs % count)[order], scores, inside[places[order]])


def panoptic(
    class_logits: Tensor,
    mask_logits: Tensor,
    size: tuple[int, int],
    *,
    things: Sequence[bool],
    picture: tuple[int, int] | None = None,
    object_threshold: float = 0.8,
    overlap_threshold: float = 0.8,
) -> Panoptic:
    """Segments of one image at `size`: each pixel goes to the query with the largest class times mask probability.

    class_logits: (Q, C + 1). mask_logits: (Q, h, w). things: by class; the others are merged into one segment each.
    picture: as for `instances`.
    object_threshold: the probability of a query's class must be above it, in [0, 1]; 0.8 in Mask2Former, 0 in FC-CLIP.
    overlap_threshold: a query is left out if it wins less than this share of its own mask, in [0, 1].
    """
    scores, classes = class_logits.float().softmax(-1).max(-1)
    kept = (classes < len(things)) & (scores > object_threshold)
    scores, classes = scores[kept], classes[kept]
    ids = torch.zeros(picture or size, dtype=torch.int32, device=mask_logits.device)
    if not len(classes):
        return Panoptic(ids, ())
    masks = _at_picture(mask_logits[kept], size, picture).sigmoid()
    winners = (scores[:, None, None] * masks).argmax(0)
    won = winners.flatten().bincount(minlength=len(classes))
    own = (masks >= _FOREGROUND).sum((1, 2))
    segments: list[Segment] = []
    merged: dict[int, int] = {}
    for query, index in enumerate(classes.tolist()):
        if not own[query] or won[query] / own[query] < overlap_threshold:
            continue
        region = (winners == query) & (masks[query] >= _FOREGROUND)
        if not region.any():
            continue
        if index not in merged or things[index]:
            segments.append(Segment(len(segments) + 1, index, bool(things[index])))
            merged[index] = len(segments)
        ids[region] = merged[index]
    return Panoptic(ids, tuple(segments))


def _at_picture(mask_logits: Tensor, size: tuple[int, int], picture: tuple[int, int] | None) -> Tensor:
    """Mask logits (Q, h, w) at `size`, and then at the size that the image had before; float32."""
    masks = enlarge_masks(mask_logits.float(), size)
    if picture in (None, size):
        return masks
    return F.interpolate(masks[None], size=picture, mode="bilinear", align_corners=False)[0]


def _enlarged_bands(mask_logits: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """`enlarge_masks` in bands of rows, top to bottom: the same values, a fraction of the memory."""
    cells = mask_logits.shape[2]
    for start in range(0, cells, _ROWS):
        top = start * MASK_STRIDE
        if top >= size[0]:
            return
        above = min(_EDGE, start)
        rows = mask_logits[:, :, start - above : start + _ROWS + _EDGE]
        height = min(_ROWS * MASK_STRIDE, size[0] - top)
        skipped = above * MASK_STRIDE
        yield enlarge_masks(rows, (skipped + height, size[1]))[:, :, skipped:]
