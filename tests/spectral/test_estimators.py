"""The estimators: chosen by name, each against a slow version of its search, their windows and their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.spectral.esd import Eigenvalues, eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.estimators.xmin_ks import fit_xmin_ks
from opentrans_cli.spectral.estimators.xmin_mid import fit_xmin_mid
from opentrans_cli.spectral.estimators.xmin_peak import fit_xmin_peak
from opentrans_cli.spectral.power_law import fit_tail, verdict


def pareto(alpha: float, count: int, seed: int) -> Eigenvalues:
    """Ascending samples of density ~ x**-alpha from x = 1 on."""
    uniform = 1 - np.random.default_rng(seed).random(count)
    return np.sort(uniform ** (-1 / (alpha - 1)))


def lognormal(count: int, seed: int) -> Eigenvalues:
    return np.sort(np.exp(np.random.default_rng(seed).standard_normal(count)))


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


@pytest.mark.parametrize("name", ESTIMATORS.names())
def test_spectra_without_a_fit_are_infinitely_light_and_named(name):
    none = {"one": np.ones(1), "equal": np.ones(30), "zero": np.zeros(30)}
    none |= {"two": np.arange(1.0, 3)} if name == "xmin_mid" else {}
    for values in none.values():
        fit = estimator(name)(values)
        assert (fit.alpha, fit.ks_distance, fit.tail_size) == (math.inf, 1.0, 0)
        assert verdict(values, fit) in ("too few eigenvalues", "degenerate spectrum", "zero matrix")


# xmin_mid: the upper half.


@pytest.mark.parametrize("count", [3, 4, 9, 10, 11, 200])
def test_alpha_is_the_hill_exponent_of_the_upper_half(count):
    values = lognormal(count, count)
    upper = values.tolist()[count // 2 :]
    fit = fit_xmin_mid(values)
    assert fit.alpha == pytest.approx(1 + len(upper) / sum(math.log(x / upper[0]) for x in upper))
    assert (fit.xmin, fit.tail_size) == (upper[0], len(upper))


def test_an_upper_half_of_one_repeated_value_is_degenerate():
    values = np.concatenate([np.linspace(0.1, 0.9, 10), np.full(12, 2.0)])
    assert verdict(values, fit_xmin_mid(values)) == "degenerate spectrum"


# xmin_ks: wherever the fit is best.


def slow_ks_start(values: Eigenvalues) -> int:
    """Smallest distance over all starts, one fit after the other, the first on ties."""
    distances = [fit_tail(values, start).ks_distance for start in range(len(values) - 1)]
    return distances.index(min(distances))


@pytest.mark.parametrize("count", [2, 3, 5, 9, 10, 40, 300])
def test_the_fit_is_that_of_the_start_with_the_smallest_distance(count):
    values = lognormal(count, count)
    assert fit_xmin_ks(values) == fit_tail(values, slow_ks_start(values))


@pytest.mark.parametrize("alpha", [2.0, 2.5, 3.5])
@pytest.mark.parametrize("seed", range(3))
def test_the_tail_of_a_power_law_over_a_body_is_found(alpha, seed):
    random = np.random.default_rng(seed)
    tail = (1 - random.random(30_000)) ** (-1 / (alpha - 1))
    # The body ends where the tail begins, and its density is no power law.
    body = 0.5 + 0.5 * np.sqrt(random.random(10_000))
    fit = fit_xmin_ks(np.sort(np.concatenate([body, tail])))
    assert fit.alpha == pytest.approx(alpha, rel=0.02)
    assert 0.95 < fit.xmin < 5 and fit.ks_distance < 0.02


def test_alpha_does_not_depend_on_the_unit():
    values = lognormal(500, 2)
    small, large = fit_xmin_ks(values), fit_xmin_ks(values * 1e6)
    assert large.alpha == pytest.approx(small.alpha) and large.tail_size == small.tail_size


def test_two_eigenvalues_have_an_exponent_and_too_few_values_to_trust_it():
    values = np.array([1.0, math.e])
    fit = fit_xmin_ks(values)
    assert fit.alpha == pytest.approx(3.0) and fit.standard_error == pytest.approx(2 / math.sqrt(2))
    assert verdict(values, fit) == "too few eigenvalues"


# xmin_peak: near the peak of the histogram.


def slow_peak_start(values: list[float], window: str = "log") -> int:
    """The tail start as the search is described."""
    logs = [math.log10(x) for x in values]
    low, high = logs[0], logs[-1]
    counts = [0] * 100
    for log in logs:
        counts[min(99, int((log - low) / (high - low) * 100))] += 1
    peak = 10 ** (low + (high - low) * counts.index(max(counts)) / 100)
    lowest = math.log10(0.95 * peak) if window == "log" else 0.95 * peak
    starts = [i for i in range(len(values) - 1) if lowest <= values[i] <= 1.5 * peak]
    return min(starts, key=lambda i: fit_tail(np.array(values), i).ks_distance)


@pytest.mark.parametrize("window", ["log", "linear"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_search_equals_the_slow_version(scale, window):
    values = scale * lognormal(150, 5)
    assert fit_xmin_peak(values, window=window) == fit_tail(values, slow_peak_start(values.tolist(), window))


def test_the_linear_window_gives_the_same_alpha_in_every_unit():
    values = lognormal(400, 8)
    linear = [fit_xmin_peak(unit * values, window="linear").alpha for unit in (1e-3, 1.0, 1e3)]
    assert linear == pytest.approx([linear[0]] * 3)


def test_a_window_without_a_start_is_named():
    # Bins of a spectrum over 30 decades are a factor of two wide: the peak's values lie beyond 1.5 times its edge.
    values = np.array([1e-5, *[1.9e24] * 20, 1e25])
    fit = fit_xmin_peak(values, window="linear")
    said = verdict(values, fit)
    assert (fit.tail_size, said) == (0, "no tail in window")


def test_the_lower_bound_is_a_logarithm():
    # The best tail starts at 1, far under the peak near 30; only log10(0.95 * 30) = 1.45 keeps it out.
    below = np.logspace(0, 0.15, 20)
    peak = np.full(60, 30.0)
    values = np.concatenate([below, peak, np.logspace(1.5, 3, 30)])
    assert below.max() < math.log10(0.95 * 30) < 30
    assert fit_xmin_peak(values).xmin >= 30
    # In smaller units the bound is negative, and the same values may start a tail.
    assert fit_xmin_peak(values / 100) == fit_tail(values / 100, slow_peak_start((values / 100).tolist()))


def test_an_orthogonal_layer_is_degenerate():
    weight = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64))).Q.astype(np.float32)
    values = eigenvalues(weight)
    assert verdict(values, fit_xmin_peak(values)) == "degenerate spectrum"


def test_zeros_among_tiny_eigenvalues_do_not_spoil_the_fit():
    tiny = 1e-6 * np.linspace(1, 5, 30)
    fit = fit_xmin_peak(np.concatenate([np.zeros(5), tiny]))
    assert math.isfinite(fit.alpha) and fit.xmin > 0
