"""The same fraction of every layer is removed, from any of its weights: one threshold per layer."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from opentrans_cli.sparsity.patterns.base import SingleWeights
from opentrans_cli.sparsity.schedule import check_sparsity
from opentrans_cli.sparsity.selection import Mask, Pool, Scores


class Layerwise(SingleWeights):
    """round(sparsity * total) weights removed in all, from every layer in proportion to its size.

    Counts are integers, so the shares are rounded: see `shares`. A layer that has already lost more than its share is
    not changed, and the others lose less. Inside a layer the lowest scores are removed first, among equal ones the
    later flat index; masks of growing sparsity are nested.
    """

    name = "layerwise"

    def masks(self, scores: Scores, sparsity: float, *, inside: Mapping[str, Mask] | None = None) -> dict[str, Mask]:
        """Masks of the lowest scores of each layer; see `Pattern.masks`."""
        check_sparsity(sparsity)
        pool = Pool(scores, inside)
        removed = tuple(pool.removed.values())
        counts = shares(tuple(pool.sizes.values()), removed, sum(removed) + pool.surplus(sparsity))
        for layer, count, already in zip(pool.masks, counts, removed, strict=True):
            pool.remove(count - already, (layer,))
        return pool.masks


def layerwise(text: str, model_cfg: Mapping[str, Any]) -> Layerwise:
    """The pattern, the same for every tower."""
    return Layerwise()


def shares(sizes: Sequence[int], removed: Sequence[int], count: int) -> list[int]:
    """The number of weights removed from each layer if `count` are removed in all: proportional integers.

    Webster's divisor method: the k-th weight of a layer of n is due at the level (k - 1/2) / n, and the first `count`
    that are due are removed (of two at the same level the later layer's). No layer's count falls as `count` grows.
    Nested masks need this, and rounding by largest remainder does not guarantee it. Each layer has at least `removed`
    and at most its size; sum(removed) <= count <= sum(sizes).
    """
    counts, behind = list(removed), list(range(len(sizes)))
    while True:
        left = count - sum(removed) + sum(removed[layer] for layer in behind)
        due = _first_due([sizes[layer] for layer in behind], left)
        # Layers above their share lower the level of the others, which may put more layers above their share.
        still = [layer for layer, share in zip(behind, due, strict=True) if share >= removed[layer]]
        if still == behind:
            break
        behind = still
    for layer, share in zip(behind, due, strict=True):
        counts[layer] = share
    return counts


def _first_due(sizes: Sequence[int], count: int) -> list[int]:
    """Webster's counts by layer; 0 <= count <= sum(sizes)."""
    total = sum(sizes)
    if not total:
        return [0] * len(sizes)
    # All weights due up to this level: it is so low that they are never too many, and at most one per layer is left.
    level = max(0, 2 * count - len(sizes))
    counts = [(level * size + total) // (2 * total) for size in sizes]
    queue = [_next_due(i, counts[i], size) for i, size in enumerate(sizes) if counts[i] < size]
    heapq.heapify(queue)
    for _ in range(count - sum(counts)):
        layer = -heapq.heappop(queue)[1]
        counts[layer] += 1
        if counts[layer] < sizes[layer]:
            heapq.heappush(queue, _next_due(layer, counts[layer], sizes[layer]))
    return counts


def _next_due(layer: int, count: int, size: int) -> tuple[Fraction, int]:
    """Sorts by the level at which a layer's next weight is due, then the later layer first."""
    return Fraction(2 * count + 1, 2 * size), -layer
