"""What the frameworks with queries share: options, features of the trunk, queries, their classes, scores of pixels.

The decoder's state of a query is projected into the space of the text. Its class is that of the nearest text, or no
object if a learned embedding for it is nearer.
Shapes: B images, Q queries, S texts, C classes, W width of the decoder, D embedding, H W pixels, h w cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.features import mask_means, stage_maps
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import ClassText, MaskQueries, class_scores
from opentrans_cli.frameworks.mask_decoder import DecoderSizes, MaskDecoder, pad_images
from opentrans_cli.frameworks.mask_inference import semantic_scores
from opentrans_cli.frameworks.readout import INITIAL_SCALE, MAX_SCALE

_STEP = 32  # widths are multiples of it
_SHORTEST = 1e-7  # added to the length of an embedding, as published


@dataclass(frozen=True)
class DecoderOptions:
    """Raises OptionError if a value is out of range."""

    queries: int = 100  # number of queries, the most segments that can be found in an image
    width: int | None = None  # channels, a multiple of 32; None: an eighth of the last stage's, at most 256
    encoder_layers: int = 6  # deformable attention over the pixels
    decoder_layers: int = 9  # masked attention of the queries

    def __post_init__(self) -> None:
        self.sizes(_STEP)

    def sizes(self, channels: int) -> DecoderSizes:
        """The decoder's sizes behind a trunk whose last stage has `channels`; inner layers are as wide as published."""
        width = self.width if self.width is not None else min(256, max(_STEP, channels // 8 // _STEP * _STEP))
        return DecoderSizes(
            width=width,
            mask_width=width,
            queries=self.queries,
            encoder_layers=self.encoder_layers,
            decoder_layers=self.decoder_layers,
            encoder_ffn=4 * width,
            decoder_ffn=8 * width,
        )


def share(value: float, name: str) -> None:
    """Raises OptionError unless `value` is in [0, 1]; `name` says whose it is."""
    if not 0 <= value <= 1:
        raise OptionError(f"{name} is out of range: {value}; give a value in [0, 1]")


class Classified(NamedTuple):
    """A classifier's output for the queries of one layer."""

    logits: Tensor  # (B, Q, C + 1), the last for no object
    state: Tensor  # (B, Q, W), input of the last projection to the text
    embedding: Tensor | None  # (B, Q, D), rows of length 1; None if the classes are a fixed list


def text_logits(embeddings: Tensor, text: ClassText, *, scale: Tensor) -> Tensor:
    """Logits of classes (B, Q, C): `scale` times the product of `embeddings` (B, Q, D) with the best synonym's text."""
    logits = F.linear(scale * embeddings, text.embeddings)
    return class_scores(logits.transpose(1, 2), text.class_indices).transpose(1, 2)


def logits_with_none(embeddings: Tensor, text: ClassText, nothing: Tensor, *, scale: Tensor) -> Tensor:
    """Logits (B, Q, C + 1) of `embeddings` (B, Q, D), the last of `nothing` (1, D), taken at length 1."""
    classes = text_logits(embeddings, text, scale=scale)
    return torch.cat([classes, F.linear(scale * embeddings, F.normalize(nothing, dim=-1))], -1)


class QueryClassifier(nn.Module):
    """Two layers from the state of a query to its embedding (Han et al., ICCV 2023, as OpenTrans uses it).

    exp(logit_scale) is learned and has no bound.
    """

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.class_embed = nn.Linear(width, width)
        self.embed_proj = nn.Linear(width, dimension)
        self.non_object_embedding = nn.Parameter(torch.randn(1, dimension) * dimension**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self, states: Tensor, text: ClassText) -> Classified:
        """Of `states` (B, Q, W)."""
        state = self.class_embed(states)
        embeddings = self.embed_proj(F.relu(state))
        embeddings = embeddings / (embeddings.norm(dim=-1, keepdim=True) + _SHORTEST)
        logits = logits_with_none(embeddings, text, self.non_object_embedding, scale=self.logit_scale.exp())
        return Classified(logits, state, embeddings)


class PooledQueryClassifier(nn.Module):
    """FC-CLIP's in-vocabulary classifier (Yu et al. 2023, Sec. 3.3), from the state of a query and its pixels.

    exp(logit_scale) is learned, at most 100.
    """

    def __init__(self, width: int, dimension: int) -> None:
        super().__init__()
        self.pool_norm = nn.LayerNorm(width)
        self.pool_proj = nn.Linear(width, width)
        self.class_embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dimension)
        )
        self.void_embedding = nn.Parameter(torch.randn(1, dimension))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self, states: Tensor, mask_features: Tensor, mask_logits: Tensor, text: ClassText) -> Classified:
        """Of `states` (B, Q, W), `mask_features` (B, W, h, w), and `mask_logits` (B, Q, h, w), into which no gradient
        goes.
        """
        pooled = self.pool_proj(self.pool_norm(mask_means(mask_features, mask_logits.detach() > 0)))
        state = pooled + states
        embeddings = F.normalize(self.class_embed(state), dim=-1)
        logits = logits_with_none(embeddings, text, self.void_embedding, scale=bounded(self.logit_scale))
        return Classified(logits, state, embeddings)


def bounded(logit_scale: Tensor) -> Tensor:
    """exp(logit_scale), at most CLIP's own bound."""
    return logit_scale.exp().clamp(max=MAX_SCALE)


class QuerySegmentor(nn.Module):
    """A MaskSegmentor whose `classifier` takes the states of the queries, (B, Q, d), and the text to `Classified`."""

    backbone: nn.Module
    decoder: MaskDecoder
    classifier: nn.Module

    def forward(self, images: Tensor, text: ClassText) -> Tensor:
        """See Segmentor."""
        found = self.queries(images, text)
        return semantic_scores(found.class_logits, found.mask_logits, (images.shape[-2], images.shape[-1]))

    def queries(self, images: Tensor, text: ClassText) -> MaskQueries:
        """See MaskSegmentor."""
        found = self.decoder(stage_maps(self.backbone, pad_images(images)))
        return as_queries([self.classifier(states, text) for states in found.states], found.mask_logits)


def as_queries(classified: Sequence[Classified], masks: Sequence[Tensor]) -> MaskQueries:
    """Classes and mask logits (B, Q, h, w) by layer, the result last, as MaskQueries."""
    *earlier, last = [(one.logits, mask) for one, mask in zip(classified, masks, strict=True)]
    return MaskQueries(
        *last,
        auxiliary=tuple(earlier),
        states=tuple(one.state for one in classified),
        embeddings=tuple(one.embedding for one in classified if one.embedding is not None),
    )
