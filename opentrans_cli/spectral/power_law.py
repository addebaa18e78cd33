"""Power-law fits of the tail of a spectrum: p(x) ~ x**-alpha for x >= xmin.

alpha is the maximum-likelihood (Hill) exponent, the fit is judged by the Kolmogorov-Smirnov distance
(OpenTrans, arXiv 2404.07448, Sec. 3.3; Clauset, Shalizi, Newman 2009). Letters in names: T tail starts, N
eigenvalues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# The standard error is (alpha - 1) / sqrt(n): below ten eigenvalues, a third of alpha - 1 or worse.
MIN_EIGENVALUES = 10

# Eigenvalues closer than this (relative) are one value: a float32 orthogonal matrix has such a spectrum.
_SAME = 1e-5

# The range in which Martin & Mahoney count a layer as well trained; the paper calls alpha < 2 over-trained.
_OVER_TRAINED_BELOW = 2.0
_LIGHT_ABOVE = 6.0

# Bounds the (T, N) work matrix of a scan to 32 MiB of float64.
_CHUNK_ELEMENTS = 4 * 2**20


@dataclass(frozen=True)
class PowerLawFit:
    """One fitted tail. A spectrum that cannot be fitted has alpha = inf, the lightest tail there is."""

    alpha: float  # exponent of p(x) ~ x**-alpha, > 1; smaller = heavier tail = better trained
    xmin: float  # where the tail starts, in units of the eigenvalues
    ks_distance: float  # largest gap between empirical and fitted CDF, in [0, 1]
    tail_size: int  # eigenvalues at or above xmin; few = do not trust alpha; 0 = not fitted
    standard_error: float  # of alpha, (alpha - 1) / sqrt(tail_size)


@dataclass(frozen=True)
class TailScan:
    """Fits of several tails of one spectrum, entry by entry; all tensors are (T,)."""

    start: Tensor  # int64, index of the first eigenvalue of the tail
    alpha: Tensor  # float64; inf where the whole tail is one value or starts at zero
    ks_distance: Tensor  # float64 in [0, 1]; 1 where the tail starts at zero or alpha <= 1

    def best_start(self) -> int:
        """The start with the smallest KS distance, the first one on ties."""
        return int(self.start[self.ks_distance.argmin()])


def fit_all_tails(eigenvalues: Tensor, candidates: Tensor) -> TailScan:
    """Fit the tail eigenvalues[i:] for every index i in `candidates`.

    `eigenvalues` is float64 (N,), ascending, not negative; `candidates` is int64 (T,) with entries in [0, N).
    alpha(i) = 1 + n / (sum_{k>=i} ln x_k - n ln x_i) with n = N - i, and
    D(i) = max_j |1 - (x_{i+j} / x_i)**(1 - alpha) - j / n| over j = 0..n-1.
    Memory does not grow with T * N: the work is done in chunks of about 32 MiB.
    """
    total = len(eigenvalues)
    log_N = eigenvalues.log()
    size_T = (total - candidates).to(torch.float64)
    excess_T = log_N.flip(0).cumsum(0).flip(0)[candidates] - size_T * log_N[candidates]
    first_T = eigenvalues[candidates]
    # Rounding in the running sum would give a tail of one repeated value a finite exponent, of either sign.
    fittable_T = (first_T > 0) & (first_T < eigenvalues[-1]) & (excess_T > 0)
    alpha_T = torch.where(fittable_T, 1 + size_T / excess_T, math.inf)

    rows = max(1, _CHUNK_ELEMENTS // max(1, total))
    distance_T = torch.ones_like(alpha_T)
    for begin in range(0, len(candidates), rows):
        chunk = slice(begin, begin + rows)
        distance_T[chunk] = _ks_distances(log_N, candidates[chunk], alpha_T[chunk])
    distance_T[(first_T <= 0) | (alpha_T <= 1)] = 1.0
    return TailScan(candidates, alpha_T, distance_T)


def fit_tail(eigenvalues: Tensor, start: int) -> PowerLawFit:
    """Fit the tail that begins at index `start` of ascending eigenvalues, float64 (N,); 0 <= start < N."""
    scan = fit_all_tails(eigenvalues, torch.tensor([start]))
    alpha, size = float(scan.alpha[0]), len(eigenvalues) - start
    return PowerLawFit(
        alpha=alpha,
        xmin=float(eigenvalues[start]),
        ks_distance=float(scan.ks_distance[0]),
        tail_size=size,
        standard_error=(alpha - 1) / math.sqrt(size),
    )


def spectrum_problem(eigenvalues: Tensor) -> str | None:
    """Why ascending eigenvalues (N,) with N >= 1 cannot be fitted: a verdict, or None if they can.

    "too few eigenvalues": fewer than MIN_EIGENVALUES. "degenerate spectrum": all zero, or all equal up to
    float32 rounding.
    """
    if len(eigenvalues) < MIN_EIGENVALUES:
        return "too few eigenvalues"
    if float(eigenvalues[-1]) * (1 - _SAME) <= float(eigenvalues[0]):
        return "degenerate spectrum"
    return None


def no_fit(eigenvalues: Tensor) -> PowerLawFit:
    """The fit of a spectrum that has none: alpha = inf and an empty tail, so the layer is never frozen."""
    return PowerLawFit(
        alpha=math.inf,
        xmin=float(eigenvalues[-1]),
        ks_distance=1.0,
        tail_size=0,
        standard_error=math.inf,
    )


def verdict(eigenvalues: Tensor, fit: PowerLawFit) -> str:
    """What a fit says about its layer, in words; it informs and does not decide which layers are frozen.

    "very heavy-tailed": alpha < 2, which the paper counts as over-trained. "heavy-tailed": 2 <= alpha <= 6.
    "light-tailed": alpha > 6. "too few eigenvalues" and "degenerate spectrum": see `spectrum_problem`; the
    latter also when the chosen tail is one repeated value. Layers with one of these two verdicts have alpha
    = inf when they come from an estimator of the catalog, and are never frozen.
    """
    problem = spectrum_problem(eigenvalues)
    if problem is not None:
        return problem
    if not math.isfinite(fit.alpha):
        return "degenerate spectrum"
    if fit.alpha < _OVER_TRAINED_BELOW:
        return "very heavy-tailed"
    return "heavy-tailed" if fit.alpha <= _LIGHT_ABOVE else "light-tailed"


def _ks_distances(log_N: Tensor, start_T: Tensor, alpha_T: Tensor) -> Tensor:
    """D of each tail, (T,); `log_N` are the logarithms of the ascending eigenvalues."""
    first = int(start_T.min())
    index_N = torch.arange(first, len(log_N), dtype=torch.float64)
    offset_TN = index_N - start_T[:, None]
    # nan_to_num: inf * 0 for a repeated value under alpha = inf, where 1 ** -inf is 1.
    exponent_TN = ((1 - alpha_T)[:, None] * (log_N[first:] - log_N[start_T][:, None])).nan_to_num(nan=0.0)
    gap_TN = (1 - exponent_TN.exp() - offset_TN / (len(log_N) - start_T)[:, None]).abs()
    return gap_TN.masked_fill(offset_TN < 0, 0.0).amax(dim=1)
