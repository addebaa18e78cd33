"""The tail is the upper half of the spectrum: the Hill estimator (OpenTrans, arXiv 2404.07448, released code)."""

from __future__ import annotations

from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.power_law import fit_tail, has_no_fit, no_fit
from opentrans_cli.spectral.report import PowerLawFit


def fit_xmin_mid(eigenvalues: Eigenvalues) -> PowerLawFit:
    """Fit the tail that starts at index floor(N / 2); nothing is searched, so alpha changes smoothly.

    `eigenvalues` is float64 (N,), ascending, N >= 1. The fit has alpha = inf for up to two eigenvalues, or
    if all are equal or zero, or if the upper half is one repeated value or starts at zero.
    """
    total = len(eigenvalues)
    # Of two eigenvalues the upper half is one, and one value has no exponent.
    if has_no_fit(eigenvalues) or total == 2:
        return no_fit(eigenvalues)
    return fit_tail(eigenvalues, total // 2)
