"""Classes of queries from text. Shapes: B images, Q queries, S texts, C classes, W width of the decoder, D embedding.

What a decoder of masks says about a query becomes an embedding in the space of the text; the nearest text wins, or a
learned embedding that stands for no object.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.clip.stages import mask_means
from opentrans_cli.frameworks.base import ClassText, class_scores
from opentrans_cli.frameworks.readout import INITIAL_SCALE, MAX_SCALE

_SHORTEST = 1e-7  # added to the length of an embedding, as published


class Classified(NamedTuple):
    """What a classifier makes of the queries of one layer."""

    logits: Tensor  # (B, Q, C + 1), the last for no object
    state: Tensor  # (B, Q, W), what the last projection towards the text starts from
    embedding: Tensor | None  # (B, Q, D), rows of length 1; None where classes are a fixed list


def text_logits(embeddings: Tensor, text: ClassText, *, scale: Tensor) -> Tensor:
    """Logits of classes (B, Q, C): `scale` times the product of `embeddings` (B, Q, D) with the best synonym's text."""
    logits = F.linear(scale * embeddings, text.embeddings)
    return class_scores(logits.transpose(1, 2), text.owners).transpose(1, 2)


def _with_nothing(embeddings: Tensor, text: ClassText, nothing: Tensor, *, scale: Tensor) -> Tensor:
    """Logits (B, Q, C + 1), the last of `nothing` (1, D), taken at length 1."""
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
        logits = _with_nothing(embeddings, text, self.non_object_embedding, scale=self.logit_scale.exp())
        return Classified(logits, state, embeddings)


class PooledQueryClassifier(nn.Module):
    """FC-CLIP's in-vocabulary classifier (Yu et al. 2023, Sec. 3.3): the state of a query and what is in its mask.

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
        logits = _with_nothing(embeddings, text, self.void_embedding, scale=bounded(self.logit_scale))
        return Classified(logits, state, embeddings)


def bounded(logit_scale: Tensor) -> Tensor:
    """exp(logit_scale), at most CLIP's own bound."""
    return logit_scale.exp().clamp(max=MAX_SCALE)
