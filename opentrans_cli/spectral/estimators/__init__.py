"""Estimators of the tail exponent: each takes ascending eigenvalues, float64 (N,), to a PowerLawFit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from opentrans_cli.catalog import Catalog
from opentrans_cli.errors import OptionError, unknown

if TYPE_CHECKING:
    from opentrans_cli.spectral.esd import Eigenvalues
    from opentrans_cli.spectral.report import PowerLawFit

# A string, because the names of the catalog are listed without loading numpy.
Estimator: TypeAlias = "Callable[[Eigenvalues], PowerLawFit]"

Window = Literal["log", "linear"]

ESTIMATORS = Catalog(
    "estimator",
    {
        "xmin_peak": "opentrans_cli.spectral.estimators.xmin_peak:fit_xmin_peak",
        "xmin_mid": "opentrans_cli.spectral.estimators.xmin_mid:fit_xmin_mid",
        "xmin_ks": "opentrans_cli.spectral.estimators.xmin_ks:fit_xmin_ks",
    },
)


def estimator(name: str, *, window: Window = "log") -> Estimator:
    """The estimator called `name`; `window` is where `xmin_peak` looks for the start of the tail.

    log: between log10(0.95 * peak) and 1.5 * peak, as in the released code. linear: between 0.95 * peak and
    1.5 * peak, the intended rule.
    Raises OptionError for an unknown name or window, and for "linear" with another estimator.
    """
    fit: Estimator = ESTIMATORS.load(name)
    if window not in get_args(Window):
        raise OptionError(unknown("window", window, get_args(Window)))
    if window == "log":
        return fit
    if name != "xmin_peak":
        raise OptionError(f"only xmin_peak has a window: {name} with window '{window}'; leave the window out")
    return partial(ESTIMATORS.load(name), window=window)
