"""Mask2Former whose queries are classified by text: Han et al. (ICCV 2023), the first framework of the paper.

As OpenTrans uses it (arXiv 2404.07448, Sec. 4), CLIP's ResNet has no attention pool and is trained with the rest. Every
query has an embedding in the space of the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.clip.features import embedding_size, require_resnet, require_stages, stage_channels
from opentrans_cli.frameworks.base import BACKBONE, Framework
from opentrans_cli.frameworks.keys import pool_rules, tower_rules
from opentrans_cli.frameworks.mask_decoder import MaskDecoder
from opentrans_cli.frameworks.query_segmentor import DecoderOptions, QueryClassifier, QuerySegmentor


@dataclass(frozen=True)
class HanOptions(DecoderOptions):
    """Raises OptionError if a value is out of range."""


class Han(QuerySegmentor):
    """A MaskSegmentor. `visual` is changed in place: it loses its attention pool.

    Every layer of the decoder is classified by the same projection. The head is initialised from torch's global
    generator.
    """

    def __init__(self, visual: nn.Module, options: HanOptions) -> None:
        super().__init__()
        require_resnet(visual)
        require_stages(visual)
        dimension, channels = embedding_size(visual), stage_channels(visual)
        visual.attnpool = None  # type: ignore[assignment]
        self.backbone = visual
        sizes = options.sizes(channels[-1])
        self.decoder = MaskDecoder(channels, sizes)
        self.classifier = QueryClassifier(sizes.width, dimension)


def _key_table(options: Any) -> tuple[NameRule, ...]:
    return (*tower_rules(BACKBONE), *pool_rules(None))


HAN = Framework(
    name="han",
    trainable=True,
    options_type=HanOptions,
    key_table=_key_table,
    builder=Han,
    templates=("{}",),
    masks=True,
)
