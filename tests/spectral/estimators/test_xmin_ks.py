"""The xmin_ks estimator: the plain scan, a power law over a body, and its edges."""

from __future__ import annotations

import math

import pytest
import torch

from opentrans_cli.spectral.estimators.xmin_ks import fit_xmin_ks
from opentrans_cli.spectral.power_law import fit_tail, verdict


def slow_start(values: torch.Tensor) -> int:
    """Smallest distance over all starts, one fit after the other, the first on ties."""
    distances = [fit_tail(values, start).ks_distance for start in range(len(values) - 1)]
    return distances.index(min(distances))


@pytest.mark.parametrize("count", [2, 3, 5, 9, 10, 40, 300])
def test_the_fit_is_that_of_the_start_with_the_smallest_distance(count):
    values = torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(count)).exp().sort().values
    assert fit_xmin_ks(values) == fit_tail(values, slow_start(values))


@pytest.mark.parametrize("alpha", [2.0, 2.5, 3.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_tail_of_a_power_law_over_a_body_is_found(alpha, seed):
    generator = torch.Generator().manual_seed(seed)
    tail = torch.rand(30_000, dtype=torch.float64, generator=generator) ** (-1 / (alpha - 1))
    # The body ends where the tail begins, and its density is no power law.
    body = 0.5 + 0.5 * torch.rand(10_000, dtype=torch.float64, generator=generator).sqrt()
    fit = fit_xmin_ks(torch.cat([body, tail]).sort().values)
    assert fit.alpha == pytest.approx(alpha, rel=0.02)
    assert 0.95 < fit.xmin < 5 and fit.ks_distance < 0.02


def test_alpha_does_not_depend_on_the_unit():
    values = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).exp().sort().values
    small, large = fit_xmin_ks(values), fit_xmin_ks(values * 1e6)
    assert large.alpha == pytest.approx(small.alpha) and large.tail_size == small.tail_size


@pytest.mark.parametrize("values", [torch.ones(1), torch.ones(30), torch.zeros(30)], ids=["one", "equal", "zero"])
def test_spectra_without_a_fit_are_infinitely_light(values):
    fit = fit_xmin_ks(values.double())
    assert (fit.alpha, fit.ks_distance, fit.tail_size) == (math.inf, 1.0, 0)


def test_two_eigenvalues_have_an_exponent_and_too_few_values_to_trust_it():
    values = torch.tensor([1.0, math.e], dtype=torch.float64)
    fit = fit_xmin_ks(values)
    assert fit.alpha == pytest.approx(3.0) and fit.standard_error == pytest.approx(2 / math.sqrt(2))
    assert verdict(values, fit) == "too few eigenvalues"
