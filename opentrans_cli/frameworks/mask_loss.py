"""The loss over sets of masks that Mask2Former, Han et al. and FC-CLIP train by; transformers computes it.

After Cheng et al. 2022 (arXiv 2112.01527, Sec. 3.3): queries and true masks are matched one-to-one (Hungarian), matched
masks learn by cross-entropy and dice on sampled points, all queries learn their class or that they are none.
Shapes: B images, C classes, Q queries, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.frameworks.mask_decoder import MASK_STRIDE


@dataclass(frozen=True)
class SetLossWeights:
    """The weights of FC-CLIP and Mask2Former; Han et al. has the same."""

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1  # of the class of a query without a mask
    points: int = 12_544  # points a mask is compared at; never more than it has pixels


def set_loss(queries: MaskQueries, label_maps: Tensor, *, ignore: int, weights: SetLossWeights | None = None) -> Tensor:
    """Weighted sum of all terms of the last and of the auxiliary layers, 0-d; without any mask zero for the masks.

    label_maps: int64 (B, H, W), classes 0 to C - 1 or `ignore`. Every class of an image is one mask; ignored pixels
    are in none, nor is what images were padded with. Points are drawn from the global generator.
    """
    weights = weights or SetLossWeights()
    label_maps = _padded(label_maps, queries.mask_logits.shape[-2:], ignore=ignore)
    classes = [label_map.unique() for label_map in label_maps]
    classes = [present[present != ignore] for present in classes]
    masks = [
        (label_map == present[:, None, None]).float() for label_map, present in zip(label_maps, classes, strict=True)
    ]
    losses = _criterion(queries.class_logits.shape[-1] - 1, weights, pixels=label_maps[0].numel())(
        queries.mask_logits.float(),
        queries.class_logits.float(),
        masks,
        classes,
        [
            {"masks_queries_logits": mask.float(), "class_queries_logits": classified.float()}
            for classified, mask in queries.auxiliary
        ],
    )
    factors = {"loss_cross_entropy": weights.classes, "loss_mask": weights.mask, "loss_dice": weights.dice}
    terms = [value * factors[name.rstrip("_0123456789")] for name, value in losses.items()]
    return torch.stack(terms).sum()


def _padded(label_maps: Tensor, grid: Sequence[int], *, ignore: int) -> Tensor:
    """Label maps of the size that masks of `grid` cells cover: images are padded to whole cells of the trunk."""
    height, width = (MASK_STRIDE * side for side in grid)
    return F.pad(label_maps, (0, width - label_maps.shape[-1], 0, height - label_maps.shape[-2]), value=ignore)


def _criterion(classes: int, weights: SetLossWeights, *, pixels: int) -> Any:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

    config = Mask2FormerConfig(
        class_weight=weights.classes,
        mask_weight=weights.mask,
        dice_weight=weights.dice,
        no_object_weight=weights.no_object,
        train_num_points=min(weights.points, pixels),
    )
    config.num_labels = classes
    return Mask2FormerLoss(config=config, weight_dict={})
