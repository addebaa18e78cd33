"""Choosing an estimator by name: the catalog, the window, what is refused, and the exponents all of them find."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.errors import OptionError
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.estimators.xmin_peak import fit_xmin_peak


def pareto(alpha: float, count: int, seed: int) -> torch.Tensor:
    """Ascending samples of density ~ x**-alpha from x = 1 on."""
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (uniform ** (-1 / (alpha - 1))).sort().values


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_the_default_window_is_that_of_the_catalog(name):
    assert estimator(name) is ESTIMATORS.load(name)


def test_the_linear_window_reaches_the_estimator():
    values = pareto(2.5, 300, 0)
    assert estimator("xmin_peak", window="linear")(values) == fit_xmin_peak(values, window="linear")


@pytest.mark.parametrize(
    ("name", "window", "message"),
    [
        ("xmin_top", "log", "unknown estimator: 'xmin_top'; choose one of xmin_peak, xmin_mid, xmin_ks"),
        ("xmin_peak", "cubic", "unknown window: 'cubic'; choose one of log, linear"),
        ("xmin_mid", "linear", "only xmin_peak has a window: xmin_mid with window 'linear'; leave the window out"),
        ("xmin_ks", "linear", "only xmin_peak has a window: xmin_ks"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(name, window, message):
    with pytest.raises(OptionError) as caught:
        estimator(name, window=window)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [2.0, 2.5, 3.5])
@pytest.mark.parametrize(
    ("name", "window"), [("xmin_mid", "log"), ("xmin_peak", "log"), ("xmin_peak", "linear"), ("xmin_ks", "log")]
)
def test_the_exponent_of_a_pure_power_law_is_found_within_two_percent(name, window, alpha, seed):
    fit = estimator(name, window=window)(pareto(alpha, 40_000, seed))
    assert fit.alpha == pytest.approx(alpha, rel=0.02)
    assert abs(fit.alpha - alpha) < 4 * fit.standard_error
