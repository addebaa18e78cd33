"""The tail starts near the peak of the esd: the estimator of the released OpenTrans (arXiv 2404.07448)."""

from __future__ import annotations

import torch
from torch import Tensor

from opentrans_cli.spectral.power_law import PowerLawFit, fit_all_tails, fit_tail, no_fit, spectrum_problem

_BINS = 100


def fit_xmin_peak(eigenvalues: Tensor) -> PowerLawFit:
    """Fit the tail whose start, searched around the peak of the histogram, gives the smallest KS distance.

    `eigenvalues` is float64 (N,), ascending, N >= 1. The histogram has 100 bins of log10(x); the peak is
    the left edge of the fullest bin, the first one on ties. Tails start at index 0..N-2, at values between
    log10(0.95 * peak) and 1.5 * peak. The lower bound is a logarithm compared with a plain value; it is
    kept so that exponents equal those of the released code. It binds only for large peaks: below
    peak = 1.05 it is negative and every small start is tried.
    Fewer than 10 eigenvalues, all equal or all zero: the fit has alpha = inf (see `spectrum_problem`).
    """
    if spectrum_problem(eigenvalues) is not None:
        return no_fit(eigenvalues)
    peak = _peak(eigenvalues)
    starts = eigenvalues[:-1]
    inside = (starts >= (0.95 * peak).log10()) & (starts <= 1.5 * peak)
    candidates = inside.nonzero().flatten()
    if not len(candidates):
        return no_fit(eigenvalues)
    return fit_tail(eigenvalues, fit_all_tails(eigenvalues, candidates).best_start())


def _peak(eigenvalues: Tensor) -> Tensor:
    """Left edge of the fullest bin, in units of the eigenvalues; float64 ()."""
    # A spectrum wholly below the threshold keeps its zeros, which have no logarithm.
    logs = eigenvalues[eigenvalues > 0].log10()
    low, high = float(logs[0]), float(logs[-1])
    fullest = torch.histc(logs, bins=_BINS, min=low, max=high).argmax()
    return 10 ** (low + (high - low) * fullest.to(torch.float64) / _BINS)
