"""The xmin_peak estimator against a slow version of its search, its two windows, and its edges."""

from __future__ import annotations

import math

import pytest
import torch

from opentrans_cli.spectral.esd import eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.spectral.estimators.xmin_peak import fit_xmin_peak
from opentrans_cli.spectral.power_law import fit_tail, trusted, verdict


def slow_start(values: list[float], window: str = "log") -> int:
    """The tail start as the search is described."""
    logs = [math.log10(x) for x in values]
    low, high = logs[0], logs[-1]
    counts = [0] * 100
    for log in logs:
        counts[min(99, int((log - low) / (high - low) * 100))] += 1
    peak = 10 ** (low + (high - low) * counts.index(max(counts)) / 100)
    lowest = math.log10(0.95 * peak) if window == "log" else 0.95 * peak
    starts = [i for i in range(len(values) - 1) if lowest <= values[i] <= 1.5 * peak]
    return min(starts, key=lambda i: fit_tail(torch.tensor(values, dtype=torch.float64), i).ks_distance)


@pytest.mark.parametrize("window", ["log", "linear"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_search_equals_the_slow_version(scale, window):
    generator = torch.Generator().manual_seed(5)
    values = (scale * torch.randn(150, dtype=torch.float64, generator=generator).exp()).sort().values
    assert fit_xmin_peak(values, window=window) == fit_tail(values, slow_start(values.tolist(), window))


def test_the_linear_window_gives_the_same_alpha_in_every_unit():
    values = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(8)).exp().sort().values
    linear = [fit_xmin_peak(unit * values, window="linear").alpha for unit in (1e-3, 1.0, 1e3)]
    assert linear == pytest.approx([linear[0]] * 3)


def test_a_window_without_a_start_is_named():
    # Bins of a spectrum over 30 decades are a factor of two wide: the peak's values lie beyond 1.5 times its edge.
    values = torch.cat([torch.tensor([1e-5]), torch.full((20,), 1.9e24), torch.tensor([1e25])]).double()
    fit = fit_xmin_peak(values, window="linear")
    said = verdict(values, fit)
    assert (fit.tail_size, said, trusted(said)) == (0, "no tail in window", False)


def test_the_lower_bound_is_a_logarithm():
    # The best tail starts at 1, far under the peak near 30; only log10(0.95 * 30) = 1.45 keeps it out.
    below = torch.logspace(0, 0.15, 20, dtype=torch.float64)
    peak = torch.full((60,), 30.0, dtype=torch.float64)
    values = torch.cat([below, peak, torch.logspace(1.5, 3, 30, dtype=torch.float64)])
    assert below.max() < math.log10(0.95 * 30) < 30
    assert fit_xmin_peak(values).xmin >= 30
    # In smaller units the bound is negative, and the same values may start a tail.
    assert fit_xmin_peak(values / 100) == fit_tail(values / 100, slow_start((values / 100).tolist()))


@pytest.mark.parametrize(
    "values",
    [torch.ones(1), torch.ones(30), torch.zeros(30)],
    ids=["one eigenvalue", "all equal", "zero matrix"],
)
def test_spectra_without_a_fit_are_infinitely_light_and_named(values):
    fit = fit_xmin_peak(values.double())
    assert (fit.alpha, fit.ks_distance, fit.tail_size) == (math.inf, 1.0, 0)
    said = verdict(values.double(), fit)
    assert said in ("too few eigenvalues", "degenerate spectrum", "zero matrix") and not trusted(said)


def test_an_orthogonal_layer_is_degenerate():
    weight = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0))).Q
    values = eigenvalues(weight)
    assert verdict(values, fit_xmin_peak(values)) == "degenerate spectrum"


def test_zeros_among_tiny_eigenvalues_do_not_spoil_the_fit():
    tiny = 1e-6 * torch.linspace(1, 5, 30, dtype=torch.float64)
    fit = fit_xmin_peak(torch.cat([torch.zeros(5, dtype=torch.float64), tiny]))
    assert math.isfinite(fit.alpha) and fit.xmin > 0


def test_the_catalog_knows_the_estimator():
    assert ESTIMATORS.load("xmin_peak") is fit_xmin_peak
