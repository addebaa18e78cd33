"""Bootstrap of alpha: what it is centred on, that seeds alone decide, and intervals with unfitted resamples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from opentrans_cli.spectral.bootstrap import bootstrap_alphas, interval
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.power_law import PowerLawFit, fit_tail


def pareto(alpha: float, count: int, seed: int = 0) -> torch.Tensor:
    uniform = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (uniform ** (-1 / (alpha - 1))).sort().values


def whole(values: torch.Tensor) -> PowerLawFit:
    """The tail is the whole spectrum, so theory knows the spread of alpha."""
    return fit_tail(values, 0)


def test_the_spread_of_independent_samples_is_the_standard_error():
    values = pareto(2.5, 2000)
    alphas, fit = bootstrap_alphas(values, whole, resamples=400, seed=0), whole(values)
    assert alphas.shape == (400,) and alphas.dtype == torch.float64
    assert float(alphas.mean()) == pytest.approx(fit.alpha, abs=fit.standard_error / 2)
    assert float(alphas.std()) == pytest.approx(fit.standard_error, rel=0.2)


def test_nineteen_of_twenty_intervals_hold_the_true_exponent():
    held = 0
    for seed in range(60):
        low, high = interval(bootstrap_alphas(pareto(3.0, 300, seed), whole, resamples=100, seed=seed))
        held += low <= 3.0 <= high
    assert 51 <= held < 60


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_every_resample_is_drawn_with_replacement_and_fitted_anew(name):
    values, fit = pareto(2.0, 120), estimator(name)
    generator = np.random.Generator(np.random.PCG64(7))
    expected = [fit(values[np.sort(generator.integers(120, size=120))]).alpha for _ in range(5)]
    assert bootstrap_alphas(values, fit, resamples=5, seed=7).tolist() == expected


def test_seeds_and_nothing_else_decide():
    values, fit = pareto(2.0, 50), estimator("xmin_mid")
    first = bootstrap_alphas(values, fit, resamples=10, seed=1)
    torch.manual_seed(99)
    assert bootstrap_alphas(values, fit, resamples=10, seed=1).tolist() == first.tolist()
    assert bootstrap_alphas(values, fit, resamples=10, seed=2).tolist() != first.tolist()
    assert bootstrap_alphas(values, fit, resamples=4, seed=1).tolist() == first[:4].tolist()


@pytest.mark.parametrize("values", [torch.ones(1), torch.ones(9), torch.zeros(9)], ids=["one", "equal", "zero"])
def test_resamples_without_a_fit_are_infinite(values):
    alphas = bootstrap_alphas(values.double(), estimator("xmin_ks"), resamples=3, seed=0)
    assert alphas.tolist() == [math.inf] * 3
    assert interval(alphas) == (math.inf, math.inf)


def test_an_interval_leaves_the_same_number_out_on_both_sides():
    alphas = torch.randperm(200, generator=torch.Generator().manual_seed(0)).double()
    assert interval(alphas) == (5.0, 194.0)
    assert interval(alphas, level=0.5) == (50.0, 149.0)
    assert interval(alphas[:1]) == (float(alphas[0]),) * 2


def test_an_end_is_infinite_only_with_too_many_unfitted_resamples():
    alphas = torch.cat([torch.arange(195.0), torch.full((5,), math.inf)]).double()
    assert interval(alphas) == (5.0, 194.0)
    assert interval(torch.cat([alphas[1:], torch.tensor([math.inf])]).double())[1] == math.inf


@pytest.mark.parametrize(("count", "level"), [(0, 0.95), (5, 0.0), (5, 1.0), (5, math.nan)])
def test_an_interval_of_nothing_is_a_programming_mistake(count, level):
    with pytest.raises(ValueError, match="no interval of level"):
        interval(torch.ones(count).double(), level)
