"""The xmin_peak estimator against the official outputs, a slow version of its search, and its edges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.spectral.esd import eigenvalues, spectrum_metrics
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.spectral.estimators.xmin_peak import fit_xmin_peak
from opentrans_cli.spectral.power_law import fit_tail, verdict


def reference_weight(case: dict[str, Any]) -> torch.Tensor:
    """The input of a reference case, rebuilt from its recipe."""
    random, shape = np.random.RandomState(case["seed"]), tuple(case["shape"])
    if case["kind"] == "normal":
        values = random.standard_normal(shape)
    elif case["kind"] == "student_t3":
        values = random.standard_t(3, size=shape)
    else:
        rows, columns = shape[0], math.prod(shape[1:])
        rank = max(1, min(rows, columns) // 8)
        low_rank = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
        values = (low_rank + 0.1 * random.standard_normal((rows, columns))).reshape(shape)
    return torch.from_numpy((values * case["scale"]).astype(np.float32))


@pytest.mark.parametrize("number", range(9))
def test_the_official_outputs_are_reproduced(shared: Path, number: int):
    cases = json.loads((shared / "reference" / "esd_reference.json").read_text())["cases"]
    assert len(cases) == 9
    case = cases[number]
    values = eigenvalues(reference_weight(case))
    metrics, fit, plain = spectrum_metrics(values), fit_xmin_peak(values), case["xmin_mid"]
    assert metrics.num_evals == plain["num_evals"]
    assert metrics.spectral_norm == pytest.approx(plain["lambda_max"], rel=2e-3)
    assert metrics.lambda_min == pytest.approx(plain["lambda_min"], rel=2e-3)
    assert metrics.norm == pytest.approx(plain["fro2"], rel=2e-3)
    assert metrics.stable_rank == pytest.approx(plain["stable_rank"], rel=2e-3)
    official = case["xmin_peak"]
    if "error" in official:
        # The official code stops here; one eigenvalue is a layer that is reported and never frozen.
        assert fit.alpha == math.inf and verdict(values, fit) == "too few eigenvalues"
    else:
        assert fit.alpha == pytest.approx(official["alpha"], rel=2e-3)
        assert fit.ks_distance == pytest.approx(official["D"], rel=2e-3)


def slow_start(values: list[float]) -> int:
    """The tail start as the search is described, with the logarithmic lower bound."""
    logs = [math.log10(x) for x in values]
    low, high = logs[0], logs[-1]
    counts = [0] * 100
    for log in logs:
        counts[min(99, int((log - low) / (high - low) * 100))] += 1
    peak = 10 ** (low + (high - low) * counts.index(max(counts)) / 100)
    starts = [i for i in range(len(values) - 1) if math.log10(0.95 * peak) <= values[i] <= 1.5 * peak]
    return min(starts, key=lambda i: fit_tail(torch.tensor(values, dtype=torch.float64), i).ks_distance)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_search_equals_the_slow_version(scale):
    generator = torch.Generator().manual_seed(5)
    values = (scale * torch.randn(150, dtype=torch.float64, generator=generator).exp()).sort().values
    assert fit_xmin_peak(values) == fit_tail(values, slow_start(values.tolist()))


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
    assert verdict(values.double(), fit) in ("too few eigenvalues", "degenerate spectrum", "zero matrix")


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
