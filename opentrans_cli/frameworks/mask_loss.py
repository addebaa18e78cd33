"""The loss over sets of segments with which Mask2Former, Han et al. and FC-CLIP are trained.

After Cheng et al. 2022 (arXiv 2112.01527, Sec. 3.3): queries and true masks are matched one-to-one at the least cost
(Hungarian; DETR, Carion et al. 2020), matched masks learn by cross-entropy and dice on sampled points (PointRend,
Kirillov et al. 2020, Sec. 3.1), all queries learn their class or that they are none. transformers' own loss takes its
points from the global generator and divides by sums over each batch. Here random numbers are a function of the sample
seed, and the divisors are known before anything is computed. So the loss of a batch is the sum of the losses of its
parts, in whichever process each is computed.
Shapes: L layers, B images, C classes, Q queries, N masks (of an image at most, in costs), M matches, P points, H W
pixels, h w cells. A point is (x, y) in parts of the image, in [0, 1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.frameworks.mask_decoder import MASK_STRIDE


class Corners(NamedTuple):
    """The four pixels around each point of a label map, and how much each of them counts (bilinear)."""

    classes: Tensor  # int64 (..., P, 4); `ignore` outside of the label map
    weights: Tensor  # float32 (..., P, 4)


def seeded(seed: int, *, layer: int, purpose: str, device: torch.device) -> torch.Generator:
    """Random numbers that belong to one sample (by its seed), one layer of the decoder and one purpose.

    So they do not depend on the processes, on the parts of a batch or on the order of its images.
    """
    digest = hashlib.blake2b(f"{seed} {layer} {purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def draw_points(
    seeds: Sequence[int], counts: Sequence[int], points: int, *, layer: int, purpose: str, device: torch.device
) -> Tensor:
    """Uniform points (sum of `counts`, P, 2), float32: for image b `counts[b]` sets of them."""
    parts = [
        torch.rand(count, points, 2, generator=seeded(seed, layer=layer, purpose=purpose, device=device), device=device)
        for seed, count in zip(seeds, counts, strict=True)
    ]
    return torch.cat(parts)


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """The values of `masks` (N, K, h, w) at `points` (N, P, 2), bilinear, zero beyond their edges: (N, K, P)."""
    return F.grid_sample(masks, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


def sample_labels(label_maps: Tensor, image_of: Tensor, points: Tensor, *, ignore: int) -> Corners:
    """The corners of `points` (N, P, 2), set n in image `image_of[n]`, int64 (N,), of `label_maps` (B, H, W).

    A label map contains the segments of all its classes, so that no separate map of any class is needed.
    """
    height, width = label_maps.shape[1:]
    place = points * points.new_tensor((width, height)) - 0.5
    first = place.floor()
    (x, y), (right, below) = (part.unbind(-1) for part in (first.long() + 1, place - first))
    # The frame around the label map makes sure that no corner lies outside.
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
    """The points (N, P, 2) that are taken from the random points `drawn` (N, R, 2) for `masks` (N, h, w).

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


CLASS_COST, MASK_COST, DICE_COST = 2.0, 5.0, 5.0

Layer = tuple[Tensor, Tensor]
"""Class logits (B, Q, C + 1) and mask logits (B, Q, h, w) of one layer of a decoder."""


class Matches(NamedTuple):
    """Pairs of a query and a mask in one layer, int64 (M,) each, by image and in it by class, both ascending."""

    image_of: Tensor
    query_of: Tensor
    class_of: Tensor


def present_classes(label_maps: Tensor, classes: int, *, ignore: int) -> Tensor:
    """Which classes occur in `label_maps`, int64 (B, H, W), as bool (B, C): every class of an image is one segment."""
    places = label_maps.flatten(1)
    places = places.masked_fill(places == ignore, classes)
    found = torch.zeros(len(places), classes + 1, dtype=torch.bool, device=places.device)
    return found.scatter_(1, places, True)[:, :classes]


@torch.no_grad()
def match(
    layers: Sequence[Layer], label_maps: Tensor, seeds: Sequence[int], *, ignore: int, points: int
) -> list[Matches]:
    """The matches of each layer; if an image has more segments than queries, some segments stay without a query.

    label_maps: (B, H, W), covering the same area as the masks. seeds: the sample seeds, which decide the points.
    """
    present = present_classes(label_maps, layers[0][0].shape[-1] - 1, ignore=ignore)
    counts = present.sum(1)
    most = int(counts.max())
    if not most:
        empty = counts.new_zeros(0)
        return [Matches(empty, empty, empty) for _ in layers]
    # Class indices ascend, and absent classes come last: they fill up the shorter lists and are never matched.
    classes = (~present).long().sort(dim=1, stable=True).indices[:, :most]
    costs = [
        _costs(layer, label_maps, classes, seeds, index=index, ignore=ignore, points=points)
        for index, layer in enumerate(layers)
    ]
    return _assigned(torch.stack(costs), classes, counts.tolist())


def _costs(
    layer: Layer, label_maps: Tensor, classes: Tensor, seeds: Sequence[int], *, index: int, ignore: int, points: int
) -> Tensor:
    """Costs (B, Q, N) of each query for each of `classes` (B, N)."""
    class_logits, mask_logits = (part.float() for part in layer)
    device, batch = mask_logits.device, len(mask_logits)
    places = draw_points(seeds, [1] * batch, points, layer=index, purpose="match", device=device)
    found = sample_masks(mask_logits, places)
    corners = sample_labels(label_maps, torch.arange(batch, device=device), places, ignore=ignore)
    wanted = torch.stack([mask_values(corners, one[:, None]) for one in classes.T], 1)  # (B, N, P)
    inside, whole = found.sigmoid(), wanted.sum(2)[:, None]
    both = wanted.transpose(1, 2)
    # Cross-entropy with a mask t is softplus(x) - t x, so one product with the masks is enough for both of its parts.
    # softplus(x) is computed as max(x, 0) - log sigmoid(|x|), in a quarter of the time that torch's own takes.
    entropy = (found.relu() - found.abs().sigmoid_().log_()).mean(2, keepdim=True) - found @ both / points
    dice = 1 - (2 * (inside @ both) + 1) / (inside.sum(2, keepdim=True) + whole + 1)
    likely = class_logits.softmax(-1).gather(2, classes[:, None].expand(-1, found.shape[1], -1))
    return MASK_COST * entropy + DICE_COST * dice - CLASS_COST * likely


def _assigned(costs: Tensor, classes: Tensor, counts: Sequence[int]) -> list[Matches]:
    """Matches by layer from `costs` (L, B, Q, N), of which image b has the first `counts[b]` masks."""
    from scipy.optimize import linear_sum_assignment

    # A query whose cost is NaN is taken last; the loss then shows the error.
    largest = torch.finfo(costs.dtype).max
    table = costs.nan_to_num(nan=largest, posinf=largest, neginf=largest).cpu().numpy()
    result = []
    for layer in table:
        images, queries, masks = [], [], []
        for image, count in enumerate(counts):
            taken, given = linear_sum_assignment(layer[image, :, :count].T)
            images += [image] * len(taken)
            masks += taken.tolist()
            queries += given.tolist()
        image_of, query_of, mask_of = torch.tensor([images, queries, masks], device=costs.device)
        result.append(Matches(image_of, query_of, classes[image_of, mask_of]))
    return result


@dataclass(frozen=True)
class SetLossOptions:
    """The defaults are those of FC-CLIP and Mask2Former; Han et al. also leave out half of the regions."""

    classes: float = 2.0  # weights of the terms
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1  # of the class of a query without a mask
    points: int = 12_544  # points at which a mask is compared; never more than it has pixels
    oversample: float = 3.0  # candidate points for each point that is taken
    importance: float = 0.75  # share of the points that are taken because they are uncertain
    region_dropout: float = 0.0  # share of the matched queries whose class is not in the loss


def layers_of(queries: MaskQueries) -> tuple[Layer, ...]:
    """The layers of the decoder in their order, the result last."""
    return (*queries.auxiliary, (queries.class_logits, queries.mask_logits))


def set_divisors(
    label_maps: Tensor,
    seeds: Sequence[int],
    options: SetLossOptions,
    *,
    classes: int,
    queries: int,
    layers: int,
    ignore: int,
) -> Tensor:
    """The divisors of the sums over these images, float64 (1 + L,), on the CPU; add them up over the parts of a batch.

    First comes the number of masks, for `mask` and `dice`; then, by layer, the summed weights of the queries' classes.
    These are known beforehand: training changes which queries are matched, but not how many.
    """
    counts = present_classes(label_maps, classes, ignore=ignore).sum(1).tolist()
    matched = [min(count, queries) for count in counts]
    weights = [
        sum(
            float(_kept(seed, count, layer, options).sum()) + options.no_object * (queries - count)
            for seed, count in zip(seeds, matched, strict=True)
        )
        for layer in range(layers)
    ]
    return torch.tensor([float(sum(counts)), *weights], dtype=torch.float64)


def match_queries(
    queries: MaskQueries, label_maps: Tensor, seeds: Sequence[int], options: SetLossOptions, *, ignore: int
) -> list[Matches]:
    """The matches of each layer, see `match`."""
    label_maps = _padded(label_maps, queries.mask_logits.shape[-2:], ignore=ignore)
    points = min(options.points, label_maps[0].numel())
    return match(layers_of(queries), label_maps, seeds, ignore=ignore, points=points)


def set_loss(
    queries: MaskQueries,
    matches: Sequence[Matches],
    label_maps: Tensor,
    seeds: Sequence[int],
    options: SetLossOptions,
    *,
    divisors: Tensor,
    ignore: int,
) -> dict[str, Tensor]:
    """The weighted terms "classes", "mask" and "dice", 0-d float32, summed over the last and the auxiliary layers.

    label_maps: int64 (B, H, W), classes 0 to C - 1 or `ignore`. Every class of an image is one segment; ignored
    pixels and padding are in none. divisors: of the whole batch, see `set_divisors`. Without a segment the terms of the
    masks are zero, with zero gradients.
    """
    label_maps = _padded(label_maps, queries.mask_logits.shape[-2:], ignore=ignore)
    masks, *weights = divisors.clamp(min=1e-12).tolist()
    classes, entropies, dices = [], [], []
    for index, (layer, pairs) in enumerate(zip(layers_of(queries), matches, strict=True)):
        classes.append(_class_entropy(layer[0].float(), pairs, seeds, options, layer=index) / weights[index])
        entropy, dice = _mask_terms(layer[1], pairs, label_maps, seeds, options, layer=index, ignore=ignore)
        entropies.append(entropy)
        dices.append(dice)
    count = max(1.0, masks)
    return {
        "classes": options.classes * torch.stack(classes).sum(),
        "mask": options.mask * torch.stack(entropies).sum() / count,
        "dice": options.dice * torch.stack(dices).sum() / count,
    }


def _kept(seed: int, count: int, layer: int, options: SetLossOptions) -> Tensor:
    """Which of an image's `count` matched queries have a class term in the loss, bool on the CPU, in class order."""
    if not options.region_dropout:
        return torch.ones(count, dtype=torch.bool)
    generator = seeded(seed, layer=layer, purpose="regions", device=torch.device("cpu"))
    return torch.rand(count, generator=generator) >= options.region_dropout


def _class_entropy(
    logits: Tensor, pairs: Matches, seeds: Sequence[int], options: SetLossOptions, *, layer: int
) -> Tensor:
    """Summed weighted cross-entropy of `logits` (B, Q, C + 1), 0-d."""
    batch, queries, nothing = logits.shape[0], logits.shape[1], logits.shape[2] - 1
    wanted = torch.full((batch, queries), nothing, device=logits.device)
    weights = logits.new_full((batch, queries), options.no_object)
    wanted[pairs.image_of, pairs.query_of] = pairs.class_of
    counts = _counts(pairs, batch)
    kept = torch.cat([_kept(seed, count, layer, options) for seed, count in zip(seeds, counts, strict=True)])
    weights[pairs.image_of, pairs.query_of] = kept.to(logits)
    entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return (entropy * weights.flatten()).sum()


def _mask_terms(
    logits: Tensor,
    pairs: Matches,
    label_maps: Tensor,
    seeds: Sequence[int],
    options: SetLossOptions,
    *,
    layer: int,
    ignore: int,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks among `logits` (B, Q, h, w), each summed over the masks, 0-d."""
    matched = logits[pairs.image_of, pairs.query_of].float()
    points = min(options.points, label_maps[0].numel())
    looked_at = int(points * options.oversample) + points - int(options.importance * points)
    drawn = draw_points(
        seeds, _counts(pairs, len(logits)), looked_at, layer=layer, purpose="loss", device=logits.device
    )
    places = uncertain_points(matched.detach(), drawn, points=points, importance=options.importance)
    corners = sample_labels(label_maps, pairs.image_of, places, ignore=ignore)
    wanted = mask_values(corners, pairs.class_of[:, None])
    found = sample_masks(matched[:, None], places)[:, 0]
    entropy = F.binary_cross_entropy_with_logits(found, wanted, reduction="none").mean(1).sum()
    inside = found.sigmoid()
    dice = 1 - (2 * (inside * wanted).sum(1) + 1) / (inside.sum(1) + wanted.sum(1) + 1)
    return entropy, dice.sum()


def _counts(pairs: Matches, batch: int) -> list[int]:
    """Matches by image."""
    counts: list[int] = pairs.image_of.bincount(minlength=batch).tolist()
    return counts


def _padded(label_maps: Tensor, grid: Sequence[int], *, ignore: int) -> Tensor:
    """Label maps padded to the size that query masks of `grid` cells cover, as images are padded to whole cells."""
    height, width = (MASK_STRIDE * side for side in grid)
    return F.pad(label_maps, (0, width - label_maps.shape[-1], 0, height - label_maps.shape[-2]), value=ignore)
