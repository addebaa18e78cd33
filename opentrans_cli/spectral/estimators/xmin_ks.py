"""The tail starts where it fits best: the full scan of Clauset, Shalizi, Newman (2009), Sec. 3.3."""

from __future__ import annotations

import numpy as np

from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.power_law import fit_tail, has_no_fit, no_fit
from opentrans_cli.spectral.report import PowerLawFit
from opentrans_cli.spectral.tail_search import best_start


def fit_xmin_ks(eigenvalues: Eigenvalues) -> PowerLawFit:
    """Fit the tail with the smallest KS distance of all that start at index 0..N-2; the longest one on ties.

    `eigenvalues` is float64 (N,), ascending, N >= 1. For one eigenvalue, or if all are equal or
    zero, the fit has alpha = inf.
    """
    if has_no_fit(eigenvalues):
        return no_fit(eigenvalues)
    return fit_tail(eigenvalues, best_start(eigenvalues, np.arange(len(eigenvalues) - 1)))
