"""The tail starts near the peak of the esd: the estimator of the released OpenTrans (arXiv 2404.07448)."""

from __future__ import annotations

import math

import numpy as np

from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.estimators import Window
from opentrans_cli.spectral.power_law import fit_tail, has_no_fit, no_fit
from opentrans_cli.spectral.report import PowerLawFit
from opentrans_cli.spectral.tail_search import best_start

_BINS = 100


def fit_xmin_peak(eigenvalues: Eigenvalues, *, window: Window = "log") -> PowerLawFit:
    """Fit the tail whose start, searched around the peak of the histogram, gives the smallest KS distance.

    `eigenvalues` is float64 (N,), ascending, N >= 1. The histogram has 100 bins of log10(x); the peak is
    the left edge of the fullest bin, the first one on ties. Tails start at index 0..N-2, at values of at
    most 1.5 * peak. Window "log": at least log10(0.95 * peak), a logarithm compared with a plain value. It
    is kept so that exponents equal those of the released code. It binds only for large peaks: below peak =
    1.05 it is negative and every small start is tried. Window "linear": at least 0.95 * peak, as intended.
    For one eigenvalue, if all are equal or zero, or if no start is inside the window, the fit has alpha = inf
    and an empty tail.
    """
    if has_no_fit(eigenvalues):
        return no_fit(eigenvalues)
    peak = _peak(eigenvalues)
    lowest = 0.95 * peak if window == "linear" else math.log10(0.95 * peak)
    starts = eigenvalues[:-1]
    candidates = ((starts >= lowest) & (starts <= 1.5 * peak)).nonzero()[0]
    if not len(candidates):
        return no_fit(eigenvalues)
    return fit_tail(eigenvalues, best_start(eigenvalues, candidates))


def _peak(eigenvalues: Eigenvalues) -> float:
    """Left edge of the fullest bin, in units of the eigenvalues."""
    # A spectrum wholly below the threshold keeps its zeros, which have no logarithm.
    logs = np.log10(eigenvalues[eigenvalues > 0])
    low, high = float(logs[0]), float(logs[-1])
    if low == high:
        return float(10**low)
    # The bins of torch.histc, the last one closed.
    bins = ((logs - low) * _BINS / (high - low)).astype(np.int64).clip(max=_BINS - 1)
    fullest = int(np.bincount(bins, minlength=_BINS).argmax())
    return float(10 ** (low + (high - low) * fullest / _BINS))
