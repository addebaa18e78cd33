"""Power-law fits of the tail of a spectrum: p(x) ~ x**-alpha for x >= xmin.

alpha is the maximum-likelihood (Hill) exponent; the fit is judged by the Kolmogorov-Smirnov distance
(OpenTrans, arXiv 2404.07448, Sec. 3.3; Clauset, Shalizi, Newman 2009). Letters in names: T tail starts, N
eigenvalues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.spectral.esd import SMALLEST_EIGENVALUE, Eigenvalues
from opentrans_cli.spectral.report import RANDOM_LIKE, PowerLawFit

# The standard error is (alpha - 1) / sqrt(n): below ten eigenvalues, a third of alpha - 1 or worse.
MIN_EIGENVALUES = 10

# In standard deviations of Gaussian layers: fewer than one in 1,000 lies above, of large ones none in 5,000.
RANDOM_SPREAD = 4.0

# In the unit of Tracy and Widom: no Gaussian layer of 49 kernel positions in 1,500 has more than 6.3.
RANDOM_EXCESS = 8.0

# Eigenvalues closer than this (relative) count as equal: a float32 orthogonal matrix has such a spectrum.
_SAME = 1e-5

# The range in which Martin & Mahoney count a layer as well trained; the paper calls alpha < 2 over-trained.
_OVER_TRAINED_BELOW = 2.0
_LIGHT_ABOVE = 6.0

# KS distances this close count as equal, so that rounding, which differs between processors, chooses no tail.
TIE = 1e-12

# Bounds the (T, N) work matrix of a scan to 32 MiB of float64.
_CHUNK_ELEMENTS = 4 * 2**20


Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TailScan:
    """Fits of several tails of one spectrum, entry by entry; all arrays are (T,)."""

    start: Indices  # of the first eigenvalue of the tail
    alpha: Floats  # inf where the whole tail is one value or starts at zero
    ks_distance: Floats  # in [0, 1]; 1 where the tail starts at zero or alpha <= 1

    def best_start(self) -> int:
        """The start with the smallest KS distance, the first one on ties."""
        return int(self.start[self.ks_distance <= self.ks_distance.min() + TIE][0])


def fit_all_tails(eigenvalues: Eigenvalues, candidates: Indices, *, distances: bool = True) -> TailScan:
    """Fit the tail eigenvalues[i:] for every index i in `candidates`.

    `eigenvalues` is (N,); `candidates` is (T,) with entries in [0, N).
    alpha(i) = 1 + n / (sum_{k>=i} ln x_k - n ln x_i) with n = N - i, and
    D(i) = max_j |1 - (x_{i+j} / x_i)**(1 - alpha) - j / n| over j = 0..n-1.
    Memory does not grow with T * N: the work is done in chunks of about 32 MiB. Without `distances` every
    D is 1 and the work is O(N + T).
    """
    total = len(eigenvalues)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_N = np.log(eigenvalues)
        size_T = (total - candidates).astype(np.float64)
        excess_T = log_N[::-1].cumsum()[::-1][candidates] - size_T * log_N[candidates]
        first_T = eigenvalues[candidates]
        # Rounding in the running sum would give a tail of one repeated value a finite exponent, of either sign.
        fittable_T = (first_T > 0) & (first_T < eigenvalues[-1]) & (excess_T > 0)
        alpha_T = np.where(fittable_T, 1 + size_T / excess_T, math.inf)

    rows = max(1, _CHUNK_ELEMENTS // max(1, total))
    distance_T = np.ones_like(alpha_T)
    for begin in range(0, len(candidates) if distances else 0, rows):
        chunk = slice(begin, begin + rows)
        distance_T[chunk] = tail_gaps(log_N, candidates[chunk], alpha_T[chunk])
    distance_T[(first_T <= 0) | (alpha_T <= 1)] = 1.0
    return TailScan(candidates, alpha_T, distance_T)


def fit_tail(eigenvalues: Eigenvalues, start: int) -> PowerLawFit:
    """Fit the tail that begins at index `start` of ascending eigenvalues (N,); 0 <= start < N."""
    scan = fit_all_tails(eigenvalues, np.array([start]))
    alpha, size = float(scan.alpha[0]), len(eigenvalues) - start
    return PowerLawFit(
        alpha=alpha,
        xmin=float(eigenvalues[start]),
        ks_distance=float(scan.ks_distance[0]),
        tail_size=size,
        standard_error=(alpha - 1) / math.sqrt(size),
    )


def has_no_fit(eigenvalues: Eigenvalues) -> bool:
    """Whether no tail of ascending eigenvalues (N,), N >= 1, has an exponent: just one, all equal or all zero."""
    return _unfittable(eigenvalues) is not None


def spectrum_problem(eigenvalues: Eigenvalues) -> str | None:
    """Why a fit of ascending eigenvalues (N,), N >= 1, has no meaning, as a verdict; None if it has one.

    "zero matrix": all are zero. "degenerate spectrum": all are equal up to float32 rounding. "too few
    eigenvalues": fewer than MIN_EIGENVALUES. "below threshold": none is above 1e-5, so that all were kept
    and the smallest are rounding errors of float32.
    """
    problem = _unfittable(eigenvalues)
    if problem is not None:
        return problem
    if len(eigenvalues) < MIN_EIGENVALUES:
        return "too few eigenvalues"
    return "below threshold" if float(eigenvalues[-1]) <= SMALLEST_EIGENVALUE else None


def _unfittable(eigenvalues: Eigenvalues) -> str | None:
    largest = float(eigenvalues[-1])
    if largest == 0:
        return "zero matrix"
    if len(eigenvalues) == 1:
        return "too few eigenvalues"
    return "degenerate spectrum" if largest * (1 - _SAME) <= float(eigenvalues[0]) else None


def no_fit(eigenvalues: Eigenvalues) -> PowerLawFit:
    """The fit of a spectrum that has none: alpha = inf and an empty tail, so the layer is never frozen."""
    return PowerLawFit(
        alpha=math.inf,
        xmin=float(eigenvalues[-1]),
        ks_distance=1.0,
        tail_size=0,
        standard_error=math.inf,
    )


def verdict(eigenvalues: Eigenvalues, fit: PowerLawFit, spread: float | None = None, excess: float = -math.inf) -> str:
    """Describe what a fit means for its layer, in words.

    A problem comes first, see `spectrum_problem`; also "degenerate spectrum" where the chosen tail is one
    repeated value, and "no tail in window" where no tail could be tried. No rule freezes a layer with such a
    verdict, whatever its alpha, see `report.PROBLEMS`.
    "random-like": `spread` (`WeightSpectrum.spread`) says that the eigenvalues differ no more than those of a
    Gaussian matrix, and `excess` (`WeightSpectrum.excess`) that none is beyond its edge, so the tail is not heavy
    whatever alpha is: the bulk of a random matrix alone gets an alpha between 2 and 6. This verdict is only
    information: the layer keeps its alpha in the selection, as in the paper.
    Otherwise alpha decides: "very heavy-tailed" below 2, which the paper counts as over-trained, "heavy-tailed" up to
    6, "light-tailed" above (Martin & Mahoney).
    """
    problem = spectrum_problem(eigenvalues)
    if problem is not None:
        return problem
    if not math.isfinite(fit.alpha):
        return "degenerate spectrum" if fit.tail_size else "no tail in window"
    if spread is not None and spread <= RANDOM_SPREAD and excess <= RANDOM_EXCESS:
        return RANDOM_LIKE
    if fit.alpha < _OVER_TRAINED_BELOW:
        return "very heavy-tailed"
    return "heavy-tailed" if fit.alpha <= _LIGHT_ABOVE else "light-tailed"


def gaps(log_x: Floats, log_N: Floats, start_T: Indices, alpha_T: Floats, offset_TS: NDArray[Any]) -> Floats:
    """|fitted - empirical CDF| at eigenvalues with logarithms `log_x`, (S,) or (T, S), of T tails; (T, S).

    `offset_TS` says which eigenvalues these are, counted from the start of each tail; `log_N` is (N,).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        exponent_TS = (1 - alpha_T)[:, None] * (log_x - log_N[start_T][:, None])
        # inf * 0 for a repeated value under alpha = inf, where 1 ** -inf is 1.
        exponent_TS[np.isnan(exponent_TS)] = 0.0
        gap_TS = np.exp(exponent_TS, out=exponent_TS)
        gap_TS += offset_TS / (len(log_N) - start_T)[:, None]
        gap_TS -= 1
        return np.abs(gap_TS, out=gap_TS)


def tail_gaps(log_N: Floats, start_T: Indices, alpha_T: Floats) -> Floats:
    """D of each tail, (T,): the largest gap at any of its eigenvalues; `log_N` are their logarithms, ascending."""
    first = int(start_T.min())
    offset_TN = np.arange(first, len(log_N)) - start_T[:, None]
    gap_TN = gaps(log_N[first:], log_N, start_T, alpha_T, offset_TN)
    gap_TN[offset_TN < 0] = 0.0
    largest: Floats = gap_TN.max(1)
    return largest
