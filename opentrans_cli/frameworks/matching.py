"""Which query stands for which mask: the one-to-one matching of least cost (Hungarian; DETR, Carion et al. 2020).

Costs are those of Mask2Former (Cheng et al. 2022, arXiv 2112.01527, Sec. 3.3), the same in all its descendants.
Shapes: L layers, B images, C classes, Q queries, N the most masks of an image, P points, H W pixels, h w cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from opentrans_cli.frameworks.point_sampling import draw_points, mask_values, sample_labels, sample_masks

CLASS_COST, MASK_COST, DICE_COST = 2.0, 5.0, 5.0

Layer = tuple[Tensor, Tensor]
"""Class logits (B, Q, C + 1) and mask logits (B, Q, h, w) of one layer of a decoder."""


class Matches(NamedTuple):
    """Pairs of a query and a mask in one layer, int64 (M,) each, by image and in it by class, both ascending."""

    image_of: Tensor
    query_of: Tensor
    class_of: Tensor


def present_classes(label_maps: Tensor, classes: int, *, ignore: int) -> Tensor:
    """Which classes `label_maps`, int64 (B, H, W), have, bool (B, C): every class of an image is one mask."""
    places = label_maps.flatten(1)
    places = places.masked_fill(places == ignore, classes)
    found = torch.zeros(len(places), classes + 1, dtype=torch.bool, device=places.device)
    return found.scatter_(1, places, True)[:, :classes]


@torch.no_grad()
def match(
    layers: Sequence[Layer], label_maps: Tensor, draws: Sequence[int], *, ignore: int, points: int
) -> list[Matches]:
    """The matches of each layer; of an image with more masks than queries some masks stay without a query.

    label_maps: as large as the masks, (B, H, W). draws: the number of each crop, which decides the points.
    """
    present = present_classes(label_maps, layers[0][0].shape[-1] - 1, ignore=ignore)
    counts = present.sum(1)
    most = int(counts.max())
    if not most:
        empty = counts.new_zeros(0)
        return [Matches(empty, empty, empty) for _ in layers]
    # Ascending class ids, those of absent classes last: they fill up the shorter lists and are never matched.
    classes = (~present).long().sort(dim=1, stable=True).indices[:, :most]
    costs = [
        _costs(layer, label_maps, classes, draws, index=index, ignore=ignore, points=points)
        for index, layer in enumerate(layers)
    ]
    return _assigned(torch.stack(costs), classes, counts.tolist())


def _costs(
    layer: Layer, label_maps: Tensor, classes: Tensor, draws: Sequence[int], *, index: int, ignore: int, points: int
) -> Tensor:
    """Costs (B, Q, N) of each query for each of `classes` (B, N)."""
    class_logits, mask_logits = (part.float() for part in layer)
    device, batch = mask_logits.device, len(mask_logits)
    places = draw_points(draws, [1] * batch, points, layer=index, purpose="match", device=device)
    found = sample_masks(mask_logits, places)
    corners = sample_labels(label_maps, torch.arange(batch, device=device), places, ignore=ignore)
    wanted = torch.stack([mask_values(corners, one[:, None]) for one in classes.T], 1)  # (B, N, P)
    inside, whole = found.sigmoid(), wanted.sum(2)[:, None]
    both = wanted.transpose(1, 2)
    # Cross-entropy with a mask t is softplus(x) - t x, so that one product with the masks does for both its parts; and
    # softplus(x) is max(x, 0) - log sigmoid(|x|), which takes a quarter of the time of torch's own.
    entropy = (found.relu() - found.abs().sigmoid_().log_()).mean(2, keepdim=True) - found @ both / points
    dice = 1 - (2 * (inside @ both) + 1) / (inside.sum(2, keepdim=True) + whole + 1)
    likely = class_logits.softmax(-1).gather(2, classes[:, None].expand(-1, found.shape[1], -1))
    return MASK_COST * entropy + DICE_COST * dice - CLASS_COST * likely


def _assigned(costs: Tensor, classes: Tensor, counts: Sequence[int]) -> list[Matches]:
    """Matches by layer from `costs` (L, B, Q, N), of which image b has the first `counts[b]` masks."""
    from scipy.optimize import linear_sum_assignment

    # A query whose cost is no number is taken last; the loss will say so.
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
