"""The xmin_mid estimator: Hill's formula on the upper half, and its edges."""

from __future__ import annotations

import math

import pytest
import torch

from opentrans_cli.spectral.estimators.xmin_mid import fit_xmin_mid
from opentrans_cli.spectral.power_law import trusted, verdict


@pytest.mark.parametrize("count", [3, 4, 9, 10, 11, 200])
def test_alpha_is_the_hill_exponent_of_the_upper_half(count):
    values = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count)).exp().sort().values
    upper = values.tolist()[count // 2 :]
    fit = fit_xmin_mid(values)
    assert fit.alpha == pytest.approx(1 + len(upper) / sum(math.log(x / upper[0]) for x in upper))
    assert (fit.xmin, fit.tail_size) == (upper[0], len(upper))


@pytest.mark.parametrize(
    "values",
    [torch.ones(1), torch.arange(1.0, 3), torch.ones(30), torch.zeros(30)],
    ids=["one", "two", "equal", "zero"],
)
def test_spectra_without_a_fit_are_infinitely_light(values):
    fit = fit_xmin_mid(values.double())
    assert (fit.alpha, fit.ks_distance, fit.tail_size) == (math.inf, 1.0, 0)


def test_an_upper_half_of_one_repeated_value_is_degenerate():
    values = torch.cat([torch.linspace(0.1, 0.9, 10), torch.full((12,), 2.0)]).double()
    said = verdict(values, fit_xmin_mid(values))
    assert said == "degenerate spectrum" and not trusted(said)
