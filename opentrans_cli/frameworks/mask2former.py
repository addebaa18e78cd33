"""Mask2Former itself (Cheng et al. 2022, arXiv 2112.01527) on a CLIP tower.

The published head has a fixed list of classes. With the option `classes` it is the same here, and a vocabulary only
names these classes, in the same order. Without it every query has an embedding that is compared with the texts, so that
a new head can learn any classes. The trunk is a ResNet or a ConvNeXt, trained with the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.clip.features import embedding_size, is_convnext, require_resnet, require_stages, stage_channels
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.frameworks.base import BACKBONE, ClassText, Framework
from opentrans_cli.frameworks.keys import convnext_rules, pool_rules, tower_rules
from opentrans_cli.frameworks.mask_decoder import MaskDecoder
from opentrans_cli.frameworks.query_segmentor import (
    Classified,
    DecoderOptions,
    QuerySegmentor,
    bounded,
    logits_with_none,
)
from opentrans_cli.frameworks.readout import INITIAL_SCALE


@dataclass(frozen=True)
class Mask2FormerOptions(DecoderOptions):
    """Raises OptionError if a value is out of range."""

    classes: int | None = None  # length of the fixed list the head knows; None: it compares with text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes is not None and self.classes < 1:
            raise OptionError(
                f"mask2former needs classes: {self.classes}; give at least 1, or none to classify by text"
            )


class FixedClassifier(nn.Linear):
    """Logits of a fixed list of classes and of no object, (B, Q, C + 1), from states (B, Q, width)."""

    def forward(self, states: Tensor, text: ClassText) -> Classified:  # type: ignore[override]
        """Raises DataError unless the text has as many classes as the list; the text has no other effect."""
        known = self.out_features - 1
        if text.classes != known:
            raise DataError(
                f"the head knows a fixed list of {known} classes: {text.classes} given; name the {known} in its order"
            )
        return Classified(super().forward(states), states, None)


class LinearTextClassifier(nn.Module):
    """Cosine of one projection of a query's state with the words, times exp(logit_scale), at most 100.

    "No object" is a learned embedding that is compared like a word.
    """

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, dimension)
        self.no_object = nn.Parameter(torch.randn(1, dimension) * dimension**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self, states: Tensor, text: ClassText) -> Classified:
        """Of `states` (B, Q, width)."""
        embeddings = F.normalize(self.projection(states), dim=-1)
        logits = logits_with_none(embeddings, text, self.no_object, scale=bounded(self.logit_scale))
        return Classified(logits, states, embeddings)


class Mask2Former(QuerySegmentor):
    """A MaskSegmentor. `visual` is changed in place: a ResNet loses its attention pool. `queries` raises DataError if a
    fixed list has another length than the text.

    The head is initialised from torch's global generator.
    """

    def __init__(self, visual: nn.Module, options: Mask2FormerOptions) -> None:
        super().__init__()
        if options.classes is None:
            require_stages(visual)
        elif not is_convnext(visual):
            require_resnet(visual)
        channels = stage_channels(visual)
        sizes = options.sizes(channels[-1])
        self.decoder = MaskDecoder(channels, sizes)
        self.classifier: nn.Module
        if options.classes is None:
            self.classifier = LinearTextClassifier(sizes.width, embedding_size(visual))
        else:
            self.classifier = FixedClassifier(sizes.width, options.classes + 1)
        if not is_convnext(visual):
            visual.attnpool = None  # type: ignore[assignment]
        self.backbone = visual


def _key_table(options: Any) -> tuple[NameRule, ...]:
    return (
        *convnext_rules(BACKBONE),
        *tower_rules(BACKBONE),
        *pool_rules(None),
    )


MASK2FORMER = Framework(
    name="mask2former",
    trainable=True,
    options_type=Mask2FormerOptions,
    key_table=_key_table,
    builder=Mask2Former,
    masks=True,
)
