"""Grounding of the words of captions in the queries of a query decoder, during fine-tuning.

This is the method of Han et al. (ICCV 2023) as OpenTrans trains it: a quarter of an image's words is left out at random
and at most five stay; at most 25 of the matched queries are compared with them. Shapes: B images, Q queries, D
embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.datasets.streams import Stream
from opentrans_cli.distill.grounding import grounding_loss
from opentrans_cli.frameworks.mask_loss import Matches, seeded
from opentrans_cli.frameworks.query_segmentor import bounded
from opentrans_cli.frameworks.readout import INITIAL_SCALE

MOST_WORDS = 5
MOST_QUERIES = 25
LEFT_OUT = 0.25
"""Share of the words that is left out."""

_SALT = 0x776F726473  # makes these random numbers independent of others for the same crop


class GroundingScale(nn.Module):
    """exp(logit_scale) of the cosine of words and queries: learned, at most 100."""

    def __init__(self) -> None:
        super().__init__()
        # A tensor with one number, because parameters that are split among processes need a dimension.
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(INITIAL_SCALE)))

    def forward(self) -> Tensor:
        """The factor, (1,)."""
        return bounded(self.logit_scale)


class Grounding:
    """The grounding term of a batch, which compares the images that one process computes at once.

    With more processes, or a batch in more parts, every caption is therefore compared with fewer others, as in the
    published training. Nothing else in the loss of a batch depends on these two numbers.
    """

    def __init__(self, words: Mapping[int, Sequence[int]], embeddings: Tensor) -> None:
        """words: for each sample, the rows of its words in `embeddings` (words, D), of length 1, on the device."""
        self._words, self._embeddings = words, embeddings

    def drawn(self, rows: Sequence[int], seeds: Sequence[int]) -> list[list[int]]:
        """The words of each image that are used; none for images without a caption."""
        return [self._drawn(self._words.get(row, ()), seed) for row, seed in zip(rows, seeds, strict=True)]

    @staticmethod
    def _drawn(words: Sequence[int], seed: int) -> list[int]:
        stream = Stream(seed ^ _SALT, 0)
        order, kept = np.argsort(stream.words(len(words)), kind="stable"), stream.uniform(len(words)) >= LEFT_OUT
        return [words[place] for place in order if kept[place]][:MOST_WORDS]

    def count(self, rows: Sequence[int], seeds: Sequence[int], masks: Sequence[int]) -> int:
        """How many of these images take part; `masks` gives the number of masks of each."""
        return sum(bool(words) and number > 0 for words, number in zip(self.drawn(rows, seeds), masks, strict=True))

    def __call__(
        self,
        embeddings: Tensor,
        matches: Matches,
        rows: Sequence[int],
        seeds: Sequence[int],
        scale: Tensor,
        *,
        layer: int,
    ) -> Tensor:
        """The term summed over the images that take part, 0-d; embeddings: (B, Q, D) of decoder layer `layer`."""
        queries, words = [], []
        for image, chosen in enumerate(self.drawn(rows, seeds)):
            matched = matches.query_of[matches.image_of == image]
            if chosen and len(matched):
                queries.append(embeddings[image, _some(matched, seeds[image], layer)])
                words.append(self._embeddings[torch.tensor(chosen, device=self._embeddings.device)])
        return grounding_loss(queries, words, scale) + 0 * embeddings.sum()


def _some(matched: Tensor, seed: int, layer: int) -> Tensor:
    """Choose at most MOST_QUERIES of the matched queries, int64 (K,)."""
    if len(matched) <= MOST_QUERIES:
        return matched
    generator = seeded(seed, layer=layer, purpose="grounding", device=torch.device("cpu"))
    return matched[torch.randperm(len(matched), generator=generator)[:MOST_QUERIES].to(matched.device)]
