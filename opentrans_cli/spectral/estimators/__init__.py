"""Estimators of the tail exponent: each takes ascending eigenvalues, float64 (n,), to a PowerLawFit."""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

ESTIMATORS = Catalog(
    "estimator",
    {
        "xmin_peak": "opentrans_cli.spectral.estimators.xmin_peak:fit_xmin_peak",
    },
)
