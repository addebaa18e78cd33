"""How far alpha moves when the eigenvalues of a layer are drawn again (Efron's bootstrap, percentile interval)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.spectral.estimators import Estimator


def bootstrap_alphas(eigenvalues: Tensor, fit: Estimator, *, resamples: int, seed: int) -> Tensor:
    """alpha of `resamples` spectra drawn from one with replacement and fitted anew, float64 (B,).

    `eigenvalues` is float64 (N,), ascending, N >= 1. The start of the tail is chosen anew every time, so its
    choice is part of what is measured. inf where a resample has no fit. The draws depend on `seed` and N
    alone (PCG64), not on threads, platform or other layers; give every layer a seed of its own.

    What it says: how much alpha hangs on single eigenvalues and on the choice of xmin. What it does not: the
    eigenvalues of one matrix repel each other and are not independent, so the spread over new matrices of
    the same kind is mostly smaller, and no level of confidence about the network follows. Nor does it see
    that a power law may not hold at all; see `verdict`.
    """
    total, generator = len(eigenvalues), np.random.Generator(np.random.PCG64(seed))
    alphas = []
    for _ in range(resamples):
        # Sorting positions keeps the values ascending, and is faster than sorting the values.
        drawn = np.sort(generator.integers(total, size=total))
        alphas.append(fit(eigenvalues[torch.from_numpy(drawn)]).alpha)
    return torch.tensor(alphas, dtype=torch.float64)


def interval(alphas: Tensor, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of alphas, float64 (B,) with B >= 1, as (low, high); 0 < level < 1.

    Both ends are values that occurred, so an end is inf only if more than (1 - level) / 2 of the resamples
    had no fit. Raises ValueError for a level out of range or no alphas.
    """
    if not 0 < level < 1 or not len(alphas):
        raise ValueError(f"no interval of level {level} over {len(alphas)} alphas")
    ordered, outside = alphas.sort().values, (1 - level) / 2 * len(alphas)
    # The rounding of (1 - level) / 2 must not shift a whole rank.
    low = math.floor(outside + 1e-9)
    return float(ordered[low]), float(ordered[len(alphas) - 1 - low])
