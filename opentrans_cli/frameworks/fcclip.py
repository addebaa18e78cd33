"""FC-CLIP (Yu et al. 2023, arXiv 2308.02487): masks from a frozen CLIP trunk, classified twice.

One classifier is trained: it reads a query and the pixels of its segment. The other is CLIP itself on these pixels. At
inference both are mixed; CLIP has more weight for classes without labels in training. The trunk is a ResNet or a
ConvNeXt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.clip.features import (
    embedding_size,
    is_convnext,
    mask_embeddings,
    require_stages,
    stage_channels,
    stage_maps,
)
from opentrans_cli.frameworks.base import BACKBONE, ClassText, Framework, MaskQueries
from opentrans_cli.frameworks.keys import convnext_rules, pool_rules, tower_rules
from opentrans_cli.frameworks.mask_decoder import MaskDecoder, pad_images
from opentrans_cli.frameworks.query_segmentor import (
    DecoderOptions,
    PooledQueryClassifier,
    QuerySegmentor,
    as_queries,
    bounded,
    share,
    text_logits,
)
from opentrans_cli.frameworks.readout import MAX_SCALE, resize
from opentrans_cli.frameworks.templates import VILD_TEMPLATES


@dataclass(frozen=True)
class FcClipOptions(DecoderOptions):
    """Raises OptionError if a value is out of range."""

    queries: int = 250  # number of queries, the most segments that can be found in an image
    seen_clip_weight: float = 0.4  # CLIP's weight for classes that are labelled in training, in [0, 1]
    unseen_clip_weight: float = 0.8  # and for other classes; alpha and beta of the paper

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self.seen_clip_weight, "fcclip seen_clip_weight")
        share(self.unseen_clip_weight, "fcclip unseen_clip_weight")


class FcClip(QuerySegmentor):
    """A MaskSegmentor. `visual` is frozen: it always stays in eval mode, its parameters without gradients.

    In training mode queries have the learned classes, for the loss; in eval mode the mixed ones. The head is
    initialised from torch's global generator.
    """

    clip_logit_scale: Tensor

    def __init__(self, visual: nn.Module, options: FcClipOptions) -> None:
        super().__init__()
        require_stages(visual)
        channels = stage_channels(visual)
        sizes = options.sizes(channels[-1])
        self.options = options
        self.backbone = visual.eval().requires_grad_(False)
        self.decoder = MaskDecoder(channels, sizes)
        self.classifier = PooledQueryClassifier(sizes.width, embedding_size(visual))
        self.register_buffer("clip_logit_scale", torch.tensor(math.log(MAX_SCALE)))  # the value in trained CLIPs

    def train(self, mode: bool = True) -> FcClip:
        """As for any module, but the trunk stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def queries(self, images: Tensor, text: ClassText) -> MaskQueries:
        """See MaskSegmentor."""
        maps = stage_maps(self.backbone, pad_images(images))
        found = self.decoder(maps)
        classified = [
            self.classifier(states, found.mask_features, masks, text)
            for states, masks in zip(found.states, found.mask_logits, strict=True)
        ]
        if self.training:
            return as_queries(classified, found.mask_logits)
        masks = found.mask_logits[-1]
        return MaskQueries(self._mixed(classified[-1].logits, masks, maps[-1], text), masks)

    def _mixed(self, logits: Tensor, masks: Tensor, last: Tensor, text: ClassText) -> Tensor:
        """Learned `logits` (B, Q, C + 1) and CLIP's own classes of `masks` (B, Q, h, w) on its `last` map, mixed."""
        inside = resize(masks, last) > 0
        embeddings = F.normalize(mask_embeddings(self.backbone, last, inside), dim=-1)
        return geometric_ensemble(
            logits,
            text_logits(embeddings, text, scale=bounded(self.clip_logit_scale)),
            seen=text.seen,
            alpha=self.options.seen_clip_weight,
            beta=self.options.unseen_clip_weight,
            # Attention to no cell has no meaning. The mean of no cell has one in the published models, which keep it.
            valid=None if is_convnext(self.backbone) else inside.flatten(2).any(2),
        )


def _key_table(options: Any) -> tuple[NameRule, ...]:
    return (
        *convnext_rules(BACKBONE),
        *tower_rules(BACKBONE),
        *pool_rules(BACKBONE),
    )


FCCLIP = Framework(
    name="fcclip",
    trainable=True,
    options_type=FcClipOptions,
    key_table=_key_table,
    builder=FcClip,
    templates=VILD_TEMPLATES,
    masks=True,
    frozen_trunk=True,
)


_SMALLEST = 1e-8  # added to a probability before its logarithm, as published


def geometric_ensemble(
    learned: Tensor, clip: Tensor, *, seen: Sequence[bool], alpha: float, beta: float, valid: Tensor | None = None
) -> Tensor:
    """Log-probabilities (B, Q, C + 1), the last of no object. `learned`: logits alike; `clip`: logits (B, Q, C).

    p_learned ^ (1 - w) x p_clip ^ w, normalised over the classes, where w is `alpha` for classes that training
    labelled (`seen`, C) and `beta` for others, in [0, 1]. The probability of no object is that of `learned`.
    `valid`: bool (B, Q); where false, `clip` is left out, whatever it holds.
    """
    weights = torch.tensor([alpha if known else beta for known in seen], dtype=learned.dtype, device=learned.device)
    inside = learned[..., :-1].log_softmax(-1)
    outside = clip.log_softmax(-1)
    if valid is not None:
        outside = torch.where(valid[..., None], outside, inside)
    # Sums of logarithms instead of products: products underflow for large scales, and 0 times -inf is NaN.
    mixed = torch.lerp(inside, outside, weights)
    nothing = learned.softmax(-1)[..., -1:]
    return torch.log(torch.cat([mixed.softmax(-1) * (1 - nothing), nothing], -1) + _SMALLEST)
