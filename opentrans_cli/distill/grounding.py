"""Grounding: a contrastive loss that matches the words of a caption with the queries of its own image.

After Han et al. (ICCV 2023) and OVR-CNN (Zareian et al. 2021, arXiv 2011.10678, Sec. 3.2). Shapes: N images with
captions, K queries and M words at most in one, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def grounding_loss(queries: Sequence[Tensor], words: Sequence[Tensor], scale: Tensor) -> Tensor:
    """Contrastive cross-entropy, summed over N images, 0-d; of one image alone, or none, it is zero.

    For query q and word w, s = `scale` q.w. For every word, s is averaged over the queries with the softmax of s as
    weights; the mean over the words says how well a caption fits an image. A second figure exchanges queries and words.
    With both, each image should prefer its own caption, and each caption its own image: the loss is the mean of these
    four cross-entropies.
    `queries` and `words`: by image (K_i, D) and (M_i, D), rows of length 1, at least one each; `scale`: (1,) or 0-d.
    """
    if not queries:
        return scale.sum() * 0
    found, asked = (pad_sequence(list(parts), batch_first=True) for parts in (queries, words))
    there = _filled([len(part) for part in queries], like=found)[:, None, None]  # (N, 1, 1, K)
    said = _filled([len(part) for part in words], like=asked)[None, :, :, None]  # (1, N, M, 1)
    similar = scale * torch.einsum("ikd,jmd->ijmk", found, asked)
    by_word = _attended(similar, there, over=3)  # (N, N, M)
    by_query = _attended(similar, said, over=2)  # (N, N, K)
    fits = (_mean(by_word, said[..., 0]), _mean(by_query, there[:, :, 0]))
    own = torch.arange(len(found), device=found.device)
    ways = [F.cross_entropy(way, own, reduction="sum") for fit in fits for way in (fit, fit.T)]
    return torch.stack(ways).mean()


def _filled(lengths: Sequence[int], *, like: Tensor) -> Tensor:
    """Which positions of padded sequences are not padding, bool (N, longest)."""
    return torch.arange(like.shape[1], device=like.device) < torch.tensor(lengths, device=like.device)[:, None]


def _attended(similar: Tensor, there: Tensor, *, over: int) -> Tensor:
    """Mean of `similar` over dimension `over`, weighted by its own softmax among what is `there`."""
    weights = similar.masked_fill(~there, -torch.inf).softmax(over)
    return (weights * similar).sum(over)


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """Mean (N, N) of `values` (N, N, places) over those that are `there`."""
    return (values * there).sum(2) / there.sum(2)
