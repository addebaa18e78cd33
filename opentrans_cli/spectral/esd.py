"""The empirical spectral density (esd) of a layer: the eigenvalues of W^T W.

From OpenTrans, arXiv 2404.07448, Sec. 3.3. A convolution is read as one matrix per kernel position; the
eigenvalues of all positions are pooled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import SpectrumError

# Absolute, as in the published method: alpha therefore depends on the scale of the weights.
SMALLEST_EIGENVALUE = 1e-5

# Each kernel position enters with sqrt(0.5), so its eigenvalues with 0.5.
_CONV_FACTOR = 0.5


Eigenvalues = NDArray[np.float64]
"""(N,), ascending, never negative."""


@dataclass(frozen=True)
class WeightSpectrum:
    """The spectrum of one layer."""

    eigenvalues: Eigenvalues
    spread: float  # how unequal they are, compared with a Gaussian matrix of this shape, in its standard deviations
    excess: float  # distance of the largest one beyond those of such a matrix, in the unit of their fluctuation
    scale: float  # root mean square of the weight


def eigenvalues(weight: NDArray[Any]) -> Eigenvalues:
    """Eigenvalues of a layer's weight, as `spectrum` returns them with more figures."""
    return spectrum(weight).eigenvalues


def spectrum(weight: NDArray[Any]) -> WeightSpectrum:
    """Eigenvalues of a layer's weight, and whether they could be those of a random matrix.

    `weight` is a convolution (O, I, kh, kw) with N <= kh * kw * min(O, I), or a linear map (O, I) with N <=
    min(O, I); any float dtype. Eigenvalues of at most 1e-5 are dropped; if none is larger, all
    are kept. `spread` and `excess` are computed before any is dropped.
    Raises SpectrumError for another number of dimensions, an empty weight, NaN, infinity or values whose
    squares overflow float64.
    """
    if weight.ndim not in (2, 4):
        raise SpectrumError(f"no spectrum for a weight of {weight.ndim} dimensions; it takes (O, I) or (O, I, kh, kw)")
    if weight.size == 0:
        raise SpectrumError("the weight is empty")
    grams = _grams(weight)
    norm = float(np.einsum("knn->", grams))
    if not math.isfinite(norm):
        whole = bool(np.isfinite(weight).all())
        raise SpectrumError(f"the weight holds {'values that are too large' if whole else 'NaN or infinite values'}")
    # Rounding leaves tiny negative values where the matrix is rank-deficient.
    pooled = np.sort(_eigenvalues(grams).clip(min=0))
    if weight.ndim == 4:
        pooled *= _CONV_FACTOR
    kept = pooled[pooled > SMALLEST_EIGENVALUE]
    return WeightSpectrum(
        kept if len(kept) else pooled,
        spread=_spread(pooled, weight.shape),
        excess=_excess(pooled, weight.shape),
        scale=math.sqrt(max(norm, 0.0) / weight.size),
    )


def stable_rank(eigenvalues: Eigenvalues) -> float:
    """Sum of ascending eigenvalues, float64 (n,) with n >= 1, over the largest, in [1, n]; 0 for a zero matrix."""
    norm, largest = float(eigenvalues.sum()), float(eigenvalues[-1])
    return norm / largest if largest > 0 else 0.0


def log_norm(eigenvalues: Eigenvalues) -> float:
    """log10 of the sum of eigenvalues, float64 (n,); -inf for a zero matrix."""
    norm = float(eigenvalues.sum())
    return math.log10(norm) if norm > 0 else -math.inf


def _spread(pooled: Eigenvalues, shape: Sequence[int]) -> float:
    """Standard deviations by which the eigenvalues are more unequal than those of Gaussian weights of `shape`.

    `pooled` holds all eigenvalues, (K * n,), of K = kh * kw matrices n x m, n <= m. With T1 their sum and T2
    their sum of squares, T2 / T1**2 does not depend on the scale; it is the statistic of John's test of
    sphericity (1972). For independent Gaussian entries its mean is (n + m + 1) / (K n m + 2), exactly. Its
    standard deviation is that of the test's limiting chi-squared law of K n (n + 1) / 2 - 1 degrees of
    freedom. Heavy-tailed entries, correlations, strong directions and kernel positions of different strength
    all raise it; an orthogonal matrix has the smallest value. 0 for a zero matrix or one eigenvalue.
    """
    K, (n, m) = math.prod(shape[2:]), sorted(shape[:2])
    norm = float(pooled.sum())
    if norm == 0 or K * n == 1:
        return 0.0
    weights = K * n * m
    inequality = weights * float(np.square(pooled / norm).sum())
    expected = (n + m + 1) * weights / (weights + 2)
    return (inequality - expected) / (2 * math.sqrt(K * n * (n + 1) - 2) / (K * n))


def _excess(pooled: Eigenvalues, shape: Sequence[int]) -> float:
    """How far the largest eigenvalue is beyond the edge of the spectrum of Gaussian weights of `shape`.

    `pooled` as for `_spread`. The variance of the entries is the mean square of the weights. Edge and unit are those
    by which the largest eigenvalue of a Gaussian matrix follows the law of Tracy and Widom (Johnstone 2001, with the
    halves of Ma 2012): mean -1.2, standard deviation 1.3; of K matrices it is the largest of K such numbers. -inf for
    a zero matrix.
    """
    K, (n, m) = math.prod(shape[2:]), sorted(shape[:2])
    norm = float(pooled.sum())
    if norm == 0:
        return -math.inf
    largest = float(pooled[-1] / norm) * K * n * m
    long, short = math.sqrt(m - 0.5), math.sqrt(n - 0.5)
    return (largest - (long + short) ** 2) / ((long + short) * (1 / long + 1 / short) ** (1 / 3))


def _grams(weight: NDArray[Any]) -> NDArray[np.float64]:
    """Gram matrices over the smaller side of every kernel position, (K, n, n); both sides share the eigenvalues."""
    slices = weight.transpose(2, 3, 0, 1).reshape(-1, *weight.shape[:2]) if weight.ndim == 4 else weight[None]
    wide = slices if slices.shape[-2] <= slices.shape[-1] else slices.transpose(0, 2, 1)
    matrices = np.ascontiguousarray(wide, np.float64)
    grams = np.empty((len(matrices), matrices.shape[1], matrices.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for matrix, gram in zip(matrices, grams, strict=True):
            # For single matrices numpy detects that the product is symmetric, and computes half of it.
            np.matmul(matrix, matrix.T, out=gram)
    return grams


def _eigenvalues(grams: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eigenvalues of all matrices, (K * n,). numpy's LAPACK was a quarter faster than torch's in our tests."""
    try:
        return np.asarray(np.linalg.eigvalsh(grams), dtype=np.float64).reshape(-1)
    except np.linalg.LinAlgError as error:
        raise SpectrumError("the eigenvalues of the weight cannot be computed") from error
