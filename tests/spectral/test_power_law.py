"""Tail fits against a slow version of the formulas, known exponents, and spectra that have no fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.power_law import (
    MIN_EIGENVALUES,
    RANDOM_EXCESS,
    RANDOM_SPREAD,
    fit_all_tails,
    fit_tail,
    no_fit,
    spectrum_problem,
    verdict,
)
from opentrans_cli.spectral.report import PROBLEMS, LayerAlpha, PowerLawFit


def power_law_samples(alpha: float, count: int) -> Eigenvalues:
    """Ascending samples of density ~ x**-alpha from x = 1 on."""
    return np.sort((1 - np.random.default_rng(3).random(count)) ** (-1 / (alpha - 1)))


def slow_fit(values: list[float], start: int) -> tuple[float, float]:
    """alpha and D of one tail, as the formulas are written."""
    n = len(values) - start
    excess = sum(math.log(x) for x in values[start:]) - n * math.log(values[start])
    alpha = 1 + n / excess
    gaps = [abs(1 - (values[start + j] / values[start]) ** (1 - alpha) - j / n) for j in range(n)]
    return alpha, max(gaps)


def test_every_tail_equals_the_slow_version():
    values = power_law_samples(2.5, 80)
    starts = np.arange(79)
    scan = fit_all_tails(values, starts)
    for start in starts.tolist():
        alpha, distance = slow_fit(values.tolist(), start)
        assert float(scan.alpha[start]) == pytest.approx(alpha, rel=1e-9)
        assert float(scan.ks_distance[start]) == pytest.approx(distance, abs=1e-9)


def test_a_scan_in_several_chunks_and_any_order_equals_single_fits():
    values = power_law_samples(3.0, 3000)
    order = np.random.default_rng(0).permutation(2999)
    scan = fit_all_tails(values, order)
    for entry in range(0, 2999, 100):
        single = fit_tail(values, int(order[entry]))
        assert (float(scan.alpha[entry]), float(scan.ks_distance[entry])) == (
            single.alpha,
            single.ks_distance,
        )
    assert scan.best_start() == fit_all_tails(values, np.arange(2999)).best_start()


def test_no_candidates_give_an_empty_scan():
    scan = fit_all_tails(power_law_samples(2.0, 20), np.arange(0))
    assert scan.alpha.shape == scan.ks_distance.shape == (0,)


@pytest.mark.parametrize("alpha", [2.0, 2.5, 3.5])
def test_alpha_of_a_known_power_law_is_recovered_on_the_full_tail(alpha):
    fit = fit_tail(power_law_samples(alpha, 20_000), 0)
    assert fit.alpha == pytest.approx(alpha, rel=0.02)
    assert fit.ks_distance < 0.02
    assert fit.tail_size == 20_000
    assert fit.standard_error == pytest.approx((fit.alpha - 1) / math.sqrt(20_000))


def test_alpha_does_not_depend_on_the_unit():
    values = power_law_samples(2.5, 500)
    small, large = fit_tail(values, 100), fit_tail(values * 1000, 100)
    assert large.alpha == pytest.approx(small.alpha)
    assert large.ks_distance == pytest.approx(small.ks_distance)
    assert large.xmin == pytest.approx(small.xmin * 1000)


def test_a_tail_of_one_repeated_value_is_infinitely_light():
    values = np.array([0.1, 0.3, 0.7, 0.7, 0.7, 0.7])
    scan = fit_all_tails(values, np.array([1, 2, 4, 5]))
    assert scan.alpha[1:].tolist() == [math.inf] * 3 and math.isfinite(float(scan.alpha[0]))
    assert scan.ks_distance[1:].tolist() == [0.75, 0.5, 0.0]


def test_a_tail_that_starts_at_zero_is_not_fitted():
    scan = fit_all_tails(np.array([0.0, 0.0, 1.0, 2.0]), np.arange(3))
    assert scan.alpha[:2].tolist() == [math.inf] * 2 and scan.ks_distance[:2].tolist() == [1.0, 1.0]
    assert scan.best_start() == 2


def test_one_eigenvalue_has_an_infinite_exponent():
    fit = fit_tail(np.array([2.0]), 0)
    assert (fit.alpha, fit.xmin, fit.ks_distance, fit.tail_size) == (math.inf, 2.0, 0.0, 1)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.ones(1), "too few eigenvalues"),
        (np.linspace(1, 2, MIN_EIGENVALUES - 1), "too few eigenvalues"),
        (np.linspace(1, 2, MIN_EIGENVALUES), None),
        (np.full(20, 0.3), "degenerate spectrum"),
        (np.full(3, 0.3), "degenerate spectrum"),
        (np.zeros(20), "zero matrix"),
        (np.zeros(1), "zero matrix"),
        (np.linspace(1e-7, 1e-5, 20), "below threshold"),
        (np.linspace(1e-7, 1e-5, 9), "too few eigenvalues"),
        (0.3 + 1e-7 * np.linspace(0, 1, 20), "degenerate spectrum"),
        (np.array([0.0] * 19 + [1.0]), None),
    ],
)
def test_spectra_without_a_fit_are_named(values, problem):
    assert spectrum_problem(values) == problem


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (1.5, "very heavy-tailed"),
        (2.0, "heavy-tailed"),
        (6.0, "heavy-tailed"),
        (6.01, "light-tailed"),
        (math.inf, "degenerate spectrum"),
    ],
)
def test_verdicts_follow_alpha(alpha, expected):
    fit = PowerLawFit(alpha=alpha, xmin=1.0, ks_distance=0.1, tail_size=20, standard_error=0.1)
    assert verdict(power_law_samples(2.5, 20), fit) == expected


def test_the_verdict_names_the_problem_before_alpha():
    few = np.linspace(1, 2, 3)
    assert verdict(few, fit_tail(few, 0)) == "too few eigenvalues"
    assert verdict(few, no_fit(few)) == "too few eigenvalues"
    assert no_fit(few).alpha == math.inf and no_fit(few).tail_size == 0


@pytest.mark.parametrize("alpha", [1.5, 2.5, 7.0])
def test_a_spectrum_no_broader_than_a_random_one_is_random_like_whatever_its_alpha(alpha):
    fit = PowerLawFit(alpha=alpha, xmin=1.0, ks_distance=0.1, tail_size=20, standard_error=0.1)
    values = power_law_samples(2.5, 20)
    assert verdict(values, fit, RANDOM_SPREAD) == verdict(values, fit, -30.0) == "random-like"
    assert verdict(values, fit, RANDOM_SPREAD + 0.01) == verdict(values, fit)
    assert verdict(values, fit, -30.0, RANDOM_EXCESS) == "random-like"
    assert verdict(values, fit, -30.0, RANDOM_EXCESS + 0.01) == verdict(values, fit)


def test_an_alpha_counts_unless_the_verdict_names_a_problem():
    fit = PowerLawFit(alpha=2.5, xmin=1.0, ks_distance=0.1, tail_size=20, standard_error=0.1)
    problems = {"zero matrix", "too few eigenvalues", "degenerate spectrum", "below threshold", "no tail in window"}
    assert problems == set(PROBLEMS)
    assert all(LayerAlpha("a", fit, problem).alpha == math.inf for problem in problems)
    sound = ("very heavy-tailed", "heavy-tailed", "light-tailed", "random-like")
    assert all(LayerAlpha("a", fit, said).alpha == 2.5 for said in sound)
