"""DeepLabV3+ on a CLIP tower with text as classifier. Shapes: B images, S texts, D embedding, H W pixels.

The third framework of the paper (OpenTrans, arXiv 2404.07448, Sec. 4), after Chen et al. 2017 and 2018:
CLIP's ResNet dilated, atrous spatial pyramid, decoder with the stride-4 feature. Here the image-level branch
takes part, and it has no BatchNorm, so that a batch of one image can be trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.checkpoints.rules import NameRule, below
from opentrans_cli.clip.features import dense_embedding, require_resnet, set_output_stride, stage_features
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import BACKBONE, ClassText, Framework, class_scores
from opentrans_cli.frameworks.keys import pool_rules, tower_rules
from opentrans_cli.frameworks.readout import INITIAL_SCALE, CosineClassifier, resize

_RATES = (6, 12, 18)  # at output stride 16; halved at 32 and doubled at 8, so that they span the same pixels

# Embeddings that start as CLIP's own need a larger scale than random ones: from 14, the first steps only raise the
# scale. On `shapes` all values from 25 to 70 give similar results.
_RESIDUAL_SCALE = 30.0


@dataclass(frozen=True)
class DeepLabV3Options:
    """Raises OptionError if a value is out of range."""

    output_stride: int = 16  # pixels per layer4 cell: 8, 16 or 32
    width: int | None = None  # channels of pyramid and decoder; None: an eighth of layer4's, at most 256
    dropout: float = 0.1  # share of pyramid channels dropped in training, in [0, 1)
    clip_residual: bool = True  # start from CLIP's dense embedding and learn what to add to it

    def __post_init__(self) -> None:
        if self.output_stride not in (8, 16, 32):
            raise OptionError(f"deeplabv3 has no output stride: {self.output_stride}; choose 8, 16 or 32")
        if self.width is not None and self.width < 16:
            raise OptionError(f"deeplabv3 is too narrow: width {self.width}; give at least 16")
        if not 0 <= self.dropout < 1:
            raise OptionError(f"deeplabv3 dropout is out of range: {self.dropout}; give a value in [0, 1)")


def _convolution(channels: int, width: int, *, kernel: int = 1, rate: int = 1) -> nn.Sequential:
    """Convolution (stride 1, same size), BatchNorm, ReLU."""
    padding = rate * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


class AtrousPyramid(nn.Module):
    """ASPP (Chen et al. 2017, Sec. 3.3): (B, channels, h, w) -> (B, width, h, w)."""

    def __init__(self, channels: int, width: int, *, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                _convolution(channels, width),
                *(_convolution(channels, width, kernel=3, rate=rate) for rate in rates),
            ]
        )
        # There is one value per channel and image: BatchNorm fails on one image, and on a few it removes the signal.
        self.image_level = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU(inplace=True))
        self.project = nn.Sequential(
            *_convolution(width * (len(rates) + 2), width),
            nn.Dropout(dropout),
        )

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        level = self.image_level(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[2:])
        result: Tensor = self.project(torch.cat([*(branch(features) for branch in self.branches), level], 1))
        return result


class DeepLabV3(nn.Module):
    """A Segmentor with a trained head. `visual` is changed in place: dilated, and without its attention pool.

    With `clip_residual` two projections of the pool stay, as fixed parameters
    `backbone.attnpool.{v_proj,c_proj}`: the pixel embedding is CLIP's dense one (MaskCLIP, Zhou et al. 2022),
    at length 1, plus what the head adds, zero at first. Classes without a label in training thus keep the
    place CLIP gave them. The head is initialised from torch's global generator.
    """

    def __init__(self, visual: nn.Module, options: DeepLabV3Options) -> None:
        super().__init__()
        require_resnet(visual)
        set_output_stride(visual, options.output_stride)
        low, channels, dimension = _sizes(visual)
        width = options.width or min(256, channels // 8)
        self.clip_residual = options.clip_residual
        self.backbone = visual
        _reduce_pool(visual, keep=options.clip_residual)
        rates = tuple(rate * 16 // options.output_stride for rate in _RATES)
        self.pyramid = AtrousPyramid(channels, width, rates=rates, dropout=options.dropout)
        narrow = width * 3 // 16  # 48 beside 256 channels (Chen et al. 2018, Sec. 4.1)
        self.low_level = _convolution(low, narrow)
        self.decoder = nn.Sequential(
            *_convolution(width + narrow, width, kernel=3), *_convolution(width, width, kernel=3)
        )
        self.embedding = nn.Conv2d(width, dimension, 1)
        if options.clip_residual:
            nn.init.zeros_(self.embedding.weight)
            nn.init.zeros_(self.embedding.bias)  # type: ignore[arg-type]
        self.classifier = CosineClassifier(scale=_RESIDUAL_SCALE if options.clip_residual else INITIAL_SCALE)

    def forward(self, images: Tensor, text: ClassText) -> Tensor:
        """See Segmentor."""
        scores = resize(self.classifier(self.embed(images), text.embeddings), images)
        return class_scores(scores, text.class_indices)

    def embed(self, images: Tensor) -> Tensor:
        """See PixelSegmentor; the grid is that of layer1, stride 4."""
        features = stage_features(self.backbone, images)
        fine, coarse = features["layer1"], features["layer4"]
        pyramid = resize(self.pyramid(coarse), fine)
        embedding: Tensor = self.embedding(self.decoder(torch.cat([pyramid, self.low_level(fine)], 1)))
        if self.clip_residual:
            dense = F.normalize(dense_embedding(self.backbone, coarse), dim=1)
            embedding = embedding + resize(dense, fine)
        return embedding


def _sizes(visual: Any) -> tuple[int, int, int]:
    """Channels of layer1 and layer4, and of the embedding."""
    return (
        visual.layer1[-1].conv3.out_channels,
        visual.layer4[-1].conv3.out_channels,
        visual.attnpool.c_proj.out_features,
    )


def _reduce_pool(visual: Any, *, keep: bool) -> None:
    """Keeps only the value and output projections of the attention pool, frozen, or removes it all."""
    pool = visual.attnpool
    kept = nn.ModuleDict({"v_proj": pool.v_proj, "c_proj": pool.c_proj}) if keep else None
    visual.attnpool = kept.requires_grad_(False) if kept is not None else None


def _key_table(options: DeepLabV3Options) -> tuple[NameRule, ...]:
    kept = ["attnpool.v_proj.{leaf}", "attnpool.c_proj.{leaf}"] if options.clip_residual else []
    return (*tower_rules(BACKBONE), *below(BACKBONE, "attention pool", kept), *pool_rules(None))


DEEPLABV3 = Framework(
    name="deeplabv3",
    trainable=True,
    options_type=DeepLabV3Options,
    key_table=_key_table,
    builder=DeepLabV3,
)
