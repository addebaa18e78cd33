"""Two alpha reports side by side: which layers changed, and whether they are still in the same order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.alpha_report import AlphaReport, LayerAlpha


@dataclass(frozen=True)
class AlphaComparison:
    """Reports A and B, and their layers side by side."""

    a: AlphaReport
    b: AlphaReport
    layers: dict[str, tuple[LayerAlpha, LayerAlpha]]  # in both, in the order of A
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """Layers frozen in one and trained in the other."""
        return tuple(name for name, (a, b) in self.layers.items() if a.frozen != b.frozen)

    @property
    def spearman(self) -> float | None:
        """Rank correlation of the alphas, in [-1, 1], over layers fitted in both; None if it does not exist."""
        pairs = [
            (a.alpha, b.alpha) for a, b in self.layers.values() if math.isfinite(a.alpha) and math.isfinite(b.alpha)
        ]
        return rank_correlation([a for a, _ in pairs], [b for _, b in pairs])


def compare_alphas(a: AlphaReport, b: AlphaReport) -> AlphaComparison:
    """Layers are matched by their whole names."""
    return AlphaComparison(
        a=a,
        b=b,
        layers={name: (layer, b.layers[name]) for name, layer in a.layers.items() if name in b.layers},
        only_a=tuple(name for name in a.layers if name not in b.layers),
        only_b=tuple(name for name in b.layers if name not in a.layers),
    )


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rho of finite numbers, in [-1, 1]: Pearson's of their ranks, equal values sharing the mean rank.

    None for fewer than two pairs, or where one side has one value only.
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (a, b)]
    centred = [rank - rank.mean() for rank in ranks] if len(a) > 1 else []
    if not centred or not all(rank.any() for rank in centred):
        return None
    x, y = centred
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = last - (counts - 1) / 2
    return mean[place]
