"""The loss over sets of masks that Mask2Former, Han et al. and FC-CLIP train by.

After Cheng et al. 2022 (arXiv 2112.01527, Sec. 3.3): queries and true masks are matched one-to-one, matched masks learn
by cross-entropy and dice on sampled points, all queries learn their class or that they are none. What is drawn at
random is a function of the crop, and what sums are divided by is known before anything is computed: so the loss of a
batch is the sum of the losses of its parts, wherever these are computed.
Shapes: L layers, B images, C classes, Q queries, M matches, P points, H W pixels, h w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.frameworks.mask_decoder import MASK_STRIDE
from opentrans_cli.frameworks.matching import Layer, Matches, match, present_classes
from opentrans_cli.frameworks.point_sampling import (
    draw_points,
    generator,
    mask_values,
    sample_labels,
    sample_masks,
    uncertain_points,
)


@dataclass(frozen=True)
class SetLossOptions:
    """The defaults are those of FC-CLIP and Mask2Former; Han et al. drops half of the regions beside."""

    classes: float = 2.0  # weights of the terms
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1  # of the class of a query without a mask
    points: int = 12_544  # points a mask is compared at; never more than it has pixels
    oversample: float = 3.0  # points looked at for each that is taken
    importance: float = 0.75  # share of the points that are taken for being uncertain
    region_dropout: float = 0.0  # share of the matched queries whose class takes no part


def layers_of(queries: MaskQueries) -> tuple[Layer, ...]:
    """The layers of the decoder in their order, the result last."""
    return (*queries.auxiliary, (queries.class_logits, queries.mask_logits))


def set_divisors(
    label_maps: Tensor,
    draws: Sequence[int],
    options: SetLossOptions,
    *,
    classes: int,
    queries: int,
    layers: int,
    ignore: int,
) -> Tensor:
    """What the sums over these images are to be divided by, float64 (1 + L,), on the CPU; that of a batch is the sum.

    First the number of masks, for `mask` and `dice`; then by layer the summed weights of the queries' classes: which
    query is matched changes, how many are does not.
    """
    counts = present_classes(label_maps, classes, ignore=ignore).sum(1).tolist()
    matched = [min(count, queries) for count in counts]
    weights = [
        sum(
            float(_kept(draw, count, layer, options).sum()) + options.no_object * (queries - count)
            for draw, count in zip(draws, matched, strict=True)
        )
        for layer in range(layers)
    ]
    return torch.tensor([float(sum(counts)), *weights], dtype=torch.float64)


def match_queries(
    queries: MaskQueries, label_maps: Tensor, draws: Sequence[int], options: SetLossOptions, *, ignore: int
) -> list[Matches]:
    """The matches of each layer, see `match`."""
    label_maps = _padded(label_maps, queries.mask_logits.shape[-2:], ignore=ignore)
    points = min(options.points, label_maps[0].numel())
    return match(layers_of(queries), label_maps, draws, ignore=ignore, points=points)


def set_loss(
    queries: MaskQueries,
    matches: Sequence[Matches],
    label_maps: Tensor,
    draws: Sequence[int],
    options: SetLossOptions,
    *,
    divisors: Tensor,
    ignore: int,
) -> dict[str, Tensor]:
    """The weighted terms "classes", "mask" and "dice", 0-d float32, summed over the last and the auxiliary layers.

    label_maps: int64 (B, H, W), classes 0 to C - 1 or `ignore`. Every class of an image is one mask; ignored pixels
    are in none, nor is what images were padded with. divisors: of the whole batch, see `set_divisors`. Without a mask
    those of the masks are zero, with zero gradients.
    """
    label_maps = _padded(label_maps, queries.mask_logits.shape[-2:], ignore=ignore)
    masks, *weights = divisors.clamp(min=1e-12).tolist()
    classes, entropies, dices = [], [], []
    for index, (layer, pairs) in enumerate(zip(layers_of(queries), matches, strict=True)):
        classes.append(_class_entropy(layer[0].float(), pairs, draws, options, layer=index) / weights[index])
        entropy, dice = _mask_terms(layer[1], pairs, label_maps, draws, options, layer=index, ignore=ignore)
        entropies.append(entropy)
        dices.append(dice)
    count = max(1.0, masks)
    return {
        "classes": options.classes * torch.stack(classes).sum(),
        "mask": options.mask * torch.stack(entropies).sum() / count,
        "dice": options.dice * torch.stack(dices).sum() / count,
    }


def _kept(draw: int, count: int, layer: int, options: SetLossOptions) -> Tensor:
    """Which of an image's `count` matched queries learn their class, bool on the CPU, in the order of the classes."""
    if not options.region_dropout:
        return torch.ones(count, dtype=torch.bool)
    draws = generator(draw, layer=layer, purpose="regions", device=torch.device("cpu"))
    return torch.rand(count, generator=draws) >= options.region_dropout


def _class_entropy(
    logits: Tensor, pairs: Matches, draws: Sequence[int], options: SetLossOptions, *, layer: int
) -> Tensor:
    """Summed weighted cross-entropy of `logits` (B, Q, C + 1), 0-d."""
    batch, queries, nothing = logits.shape[0], logits.shape[1], logits.shape[2] - 1
    wanted = torch.full((batch, queries), nothing, device=logits.device)
    weights = logits.new_full((batch, queries), options.no_object)
    wanted[pairs.image_of, pairs.query_of] = pairs.class_of
    counts = _counts(pairs, batch)
    kept = torch.cat([_kept(draw, count, layer, options) for draw, count in zip(draws, counts, strict=True)])
    weights[pairs.image_of, pairs.query_of] = kept.to(logits)
    entropy = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    return (entropy * weights.flatten()).sum()


def _mask_terms(
    logits: Tensor,
    pairs: Matches,
    label_maps: Tensor,
    draws: Sequence[int],
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
        draws, _counts(pairs, len(logits)), looked_at, layer=layer, purpose="loss", device=logits.device
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
    """Label maps of the size that masks of `grid` cells cover: images are padded to whole cells of the trunk."""
    height, width = (MASK_STRIDE * side for side in grid)
    return F.pad(label_maps, (0, width - label_maps.shape[-1], 0, height - label_maps.shape[-2]), value=ignore)
