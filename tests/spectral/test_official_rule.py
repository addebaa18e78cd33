"""All estimators against the official outputs, and against a float32 version of the official rule on further inputs.

The official code works in float32, this package in float64. Where they must agree, they do to about 1e-5. They cannot
agree on which eigenvalues are above 1e-5, which bin is the fullest or which of two starts fits better when the two
choices differ by less than the rounding of float32; of 18,000 fits of this recipe that was so in three, and in none
with the seeds below. Three kinds of spectra differ on purpose: the official code gives alpha = inf or stops for one
eigenvalue, gives inf for two under `xmin_mid`, and gives alpha = 0 where no start was tried. Here these have a named
verdict.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.spectral.esd import Eigenvalues, spectrum, stable_rank
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.power_law import verdict
from opentrans_cli.spectral.report import PROBLEMS

OFFICIAL_NAMES = {"xmin_mid": "xmin_mid", "xmin_peak": "xmin_peak", "xmin_ks": "DKS"}
KINDS = ("normal", "student_t3", "lowrank_plus_noise")
SCALES = (0.001, 0.003, 0.01, 0.05, 0.1, 0.5, 1.0)
SHAPES = [(64, 64, 3, 3), (32, 3, 3, 3), (256, 64, 1, 1), (64, 256, 1, 1), (128, 256), (100, 7), (24, 24, 5, 5)]
SMALL_SHAPES = [(2, 50), (3, 40), (5, 5), (9, 30, 1, 1), (1, 3, 3, 3), (2, 2, 1, 1), (3, 2, 1, 2), (200, 4, 1, 1)]


def recipe(kind: str, seed: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """The input of a case, float32, as the reference file describes it."""
    random = np.random.RandomState(seed)
    if kind == "normal":
        values = random.standard_normal(shape)
    elif kind == "student_t3":
        values = random.standard_t(3, size=shape)
    else:
        rows, columns = shape[0], math.prod(shape[1:])
        rank = max(1, min(rows, columns) // 8)
        low_rank = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
        values = (low_rank + 0.1 * random.standard_normal((rows, columns))).reshape(shape)
    return (values * scale).astype(np.float32)


def rule_spectrum(weight: np.ndarray) -> np.ndarray:
    """Kept eigenvalues by the official rule, float32 (N,), ascending."""
    matrices = weight
    if weight.ndim == 4:
        matrices = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1) * np.float32(math.sqrt(0.5))
    values = np.sort(np.linalg.svd(matrices, compute_uv=False).ravel() ** 2)
    kept = values[values > np.float32(1e-5)]
    return kept if len(kept) else values


def rule_fit(values: np.ndarray, name: str) -> tuple[float, float]:
    """alpha and D by the official rule, in float32; N >= 2, for xmin_mid N >= 3."""
    logs, total = np.log(values), len(values)
    lowest, highest = -math.inf, math.inf
    if name == "xmin_peak":
        counts, edges = np.histogram(np.log10(values), bins=100)
        peak = np.float32(10) ** np.float32(edges[counts.argmax()])
        lowest, highest = np.log10(np.float32(0.95) * peak), np.float32(1.5) * peak
    starts = [total // 2] if name == "xmin_mid" else range(total - 1)
    best = (0.0, 1.0)
    for i in starts:
        if not lowest <= values[i] <= highest:
            continue
        n = total - i
        alpha = 1 + np.float32(n) / (logs[i:].sum() - np.float32(n) * logs[i])
        fitted = 1 - (values[i:] / values[i]) ** (1 - alpha)
        distance = np.abs(fitted - np.arange(n, dtype=np.float32) / np.float32(n)).max()
        if distance < best[1]:
            best = (float(alpha), float(distance))
    return best


@pytest.mark.parametrize("name", ESTIMATORS.names())
@pytest.mark.parametrize("number", range(9))
def test_the_official_outputs_are_reproduced(reference: Path, number: int, name: str) -> None:
    case: dict[str, Any] = json.loads((reference / "esd_reference.json").read_text())["cases"][number]
    weight = recipe(case["kind"], case["seed"], tuple(case["shape"]), case["scale"])
    layer = spectrum(weight)
    fit, official = estimator(name)(layer.eigenvalues), case[OFFICIAL_NAMES[name]]
    said = verdict(layer.eigenvalues, fit, layer.spread)
    values, scalars = layer.eigenvalues, case["xmin_mid"]
    assert len(values) == scalars["num_evals"]
    found = [float(values[-1]), float(values[0]), float(values.sum()), stable_rank(values)]
    official_scalars = [scalars[name] for name in ("lambda_max", "lambda_min", "fro2", "stable_rank")]
    assert found == pytest.approx(official_scalars, rel=2e-3)
    if "error" in official or official["alpha"] == "inf":
        assert fit.tail_size == 0 and said == "too few eigenvalues"
    else:
        assert fit.alpha == pytest.approx(official["alpha"], rel=2e-3)
        assert fit.ks_distance == pytest.approx(official["D"], rel=2e-3)
        assert (said == "random-like") == (case["kind"] == "normal")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES + SMALL_SHAPES, ids=str)
def test_further_inputs_of_the_recipe_agree_with_the_official_rule(kind: str, shape: tuple[int, ...]) -> None:
    compared = 0
    for seed, scale in enumerate(SCALES, start=70):
        weight = recipe(kind, seed, shape, scale)
        values, expected = spectrum(weight).eigenvalues, rule_spectrum(weight)
        assert len(values) == len(expected)
        np.testing.assert_allclose(values, expected, rtol=2e-3)
        for name in ESTIMATORS.names():
            if len(values) > (2 if name == "xmin_mid" else 1):
                assert_agrees(values, name, *rule_fit(expected, name))
                compared += 1
    assert compared >= 6


def assert_agrees(values: Eigenvalues, name: str, alpha: float, distance: float) -> None:
    fit = estimator(name)(values)
    assert fit.alpha == pytest.approx(alpha, rel=2e-3) and fit.ks_distance == pytest.approx(distance, rel=2e-3)
    assert fit.xmin == pytest.approx(float(values[len(values) - fit.tail_size]))
    assert fit.standard_error == pytest.approx((fit.alpha - 1) / math.sqrt(fit.tail_size))
    said = verdict(values, fit)
    assert said == "too few eigenvalues" if len(values) < 10 else said not in PROBLEMS


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_a_spectrum_below_the_threshold_is_fitted_as_the_official_rule_does(name: str) -> None:
    weight = recipe("normal", 0, (48, 32), 1e-4)
    layer, expected = spectrum(weight), rule_spectrum(weight)
    fit, (alpha, distance) = estimator(name)(layer.eigenvalues), rule_fit(expected, name)
    assert float(layer.eigenvalues[-1]) < 1e-5 and len(layer.eigenvalues) == 32
    assert fit.alpha == pytest.approx(alpha, rel=2e-3) and fit.ks_distance == pytest.approx(distance, rel=2e-3)
    said = verdict(layer.eigenvalues, fit, layer.spread)
    assert said == "below threshold"
