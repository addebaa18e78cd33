"""How firm a decision is: resamples, other estimators, random weights, and that seeds alone decide."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.errors import SpectrumError
from opentrans_cli.reporter import SILENT
from opentrans_cli.spectral.esd import Eigenvalues, eigenvalues
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.measure import measure
from opentrans_cli.spectral.power_law import fit_tail
from opentrans_cli.spectral.report import LayerAlpha, PowerLawFit, Stability
from opentrans_cli.spectral.selection import Selection
from opentrans_cli.spectral.stability import (
    NULL_SAMPLES,
    bootstrap_alphas,
    decision_stability,
    interval,
    judge,
    null_alphas,
)

FIT = estimator("xmin_peak")
MEDIAN = Selection("heavy").choose


def weights() -> dict[str, NDArray[Any]]:
    """Two layers with heavy tails of unlike weight, one random, one without an alpha."""
    random = np.random.default_rng(1)
    normal = {name: random.standard_normal((64, 48)) * 0.1 for name in ("steep", "flat", "random")}
    left, _, right = np.linalg.svd(normal["steep"], full_matrices=False)
    falling = np.arange(1.0, 49)
    return {
        "steep": left * falling**-1.2 @ right,
        "flat": left * falling**-0.6 @ right,
        "random": normal["random"],
        "zero": np.zeros((20, 20)),
    }


def spectra(*names: str) -> tuple[LayerAlpha, ...]:
    others = {rule: estimator(rule) for rule in ESTIMATORS.names() if rule != "xmin_peak"}
    return measure(names or tuple(weights()), weights().__getitem__, FIT, others=others)


def judged(*names: str, resamples: int = 0, null: bool = False, seed: int = 0) -> Mapping[str, Stability]:
    layers = judge(spectra(*names), FIT, MEDIAN, resamples=resamples, null=null, seed=seed, reporter=SILENT)
    return stabilities(layers)


def stabilities(layers: tuple[LayerAlpha, ...]) -> dict[str, Stability]:
    return {layer.name: layer.stability for layer in layers if layer.stability is not None}


def test_without_resamples_the_other_rules_alone_decide_whether_a_decision_is_stable() -> None:
    found, measured = judged(), spectra()
    frozen = {
        rule: set(MEDIAN({layer.name: layer.others[rule] for layer in measured})) for rule in ("xmin_mid", "xmin_ks")
    }
    own = set(MEDIAN({layer.name: layer.alpha for layer in measured}))
    for name, one in found.items():
        same = {rule: (name in chosen) == (name in own) for rule, chosen in frozen.items()}
        assert (one.by_rule, one.stable) == (same, all(same.values()))
        assert one.interval is None and one.null is None and one.agreement == 1
        assert set(one.to_json()) == {"stable", "same_decision_by"}


def test_the_same_seed_gives_the_same_figures_and_another_seed_others() -> None:
    first, again, other = (judged(resamples=20, null=True, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert all(first[name].interval != other[name].interval for name in ("steep", "flat", "random"))
    assert all(first[name].null != other[name].null for name in ("steep", "flat", "random"))


def test_leaving_a_layer_out_moves_no_interval_and_no_control_of_another() -> None:
    whole, part = judged(resamples=20, null=True), judged("flat", "random", resamples=20, null=True)
    assert all((whole[name].interval, whole[name].null) == (part[name].interval, part[name].null) for name in part)


def test_an_interval_has_its_alphas_between_its_ends_and_is_infinite_where_there_is_no_alpha() -> None:
    found = judged(resamples=40)
    for layer in spectra():
        ends = found[layer.name].interval
        assert ends is not None and ends[0] <= ends[1]
        assert (ends == (math.inf, math.inf)) == (layer.name == "zero")
    assert found["zero"].to_json()["interval"] == [None, None]
    assert all(0 <= one.agreement <= 1 for one in found.values())


def test_a_trained_layer_lies_outside_of_what_random_weights_get() -> None:
    found = judged(null=True)
    alphas = {layer.name: layer.alpha for layer in spectra()}
    for name in ("steep", "flat", "random"):
        null = found[name].null
        assert null is not None and len(null) == NULL_SAMPLES and list(null) == sorted(null)
        assert found[name].null_median == null[2]
    steep, random = found["steep"].null, found["random"].null
    assert steep is not None and random is not None
    assert alphas["steep"] < steep[0]
    assert random[0] * 0.8 < alphas["random"] < random[-1] * 1.2


def test_random_weights_of_the_scale_of_zeros_have_no_alpha_and_json_says_null() -> None:
    assert judged("zero", "steep", null=True)["zero"].to_json()["null_alpha"] == {
        "median": None,
        "lowest": None,
        "highest": None,
    }


def test_a_decision_that_resamples_overturn_is_not_stable() -> None:
    """Two layers of one spectrum: which of them lies below the median is a matter of the resample."""
    alike = {"a": weights()["steep"], "b": weights()["steep"] * 1.001}
    measured = measure(["a", "b"], alike.__getitem__, FIT)
    loose = judge(measured, FIT, MEDIAN, resamples=60, null=False, seed=0, reporter=SILENT)
    assert all(0.2 < one.agreement < 0.8 and not one.stable for one in stabilities(loose).values())
    firm = judge(measured, FIT, lambda alphas: ("a",), resamples=60, null=False, seed=0, reporter=SILENT)
    assert all(one.agreement == 1 and one.stable for one in stabilities(firm).values())


def test_two_threads_give_the_figures_of_one() -> None:
    expected = judged(resamples=10, null=True)
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        assert judged(resamples=10, null=True) == expected


def test_a_judged_layer_is_an_entry_of_the_contract() -> None:
    layers = judge(spectra(), FIT, MEDIAN, resamples=5, null=True, seed=0, reporter=SILENT)
    document = {"estimator": "xmin_peak", "median_alpha": 2, "layers": [layer.to_json() for layer in layers]}
    check_document(document, "analyze_report")
    assert {"interval", "agreement", "null_alpha"} <= document["layers"][0].keys()


# Decisions.


def halves(alphas: Mapping[str, float]) -> tuple[str, ...]:
    return Selection("heavy", ratio=0.5).choose(alphas)


def resamples(**alphas: list[float]) -> dict[str, NDArray[Any]]:
    return {layer: np.array(values, np.float64) for layer, values in alphas.items()}


def test_the_agreement_is_the_share_of_selections_that_decide_the_same() -> None:
    alphas = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    # b and c change places in the second of four resamples, and d moves without a consequence.
    drawn = resamples(a=[1, 1, 1, 1], b=[2, 3, 2, 2], c=[3, 2, 3, 3], d=[9, 50, 4, math.inf])
    found = decision_stability(halves, alphas, drawn, {})
    assert {layer: stability.agreement for layer, stability in found.items()} == {"a": 1, "b": 0.75, "c": 0.75, "d": 1}
    assert [layer for layer, stability in found.items() if stability.stable] == ["a", "d"]


def test_nine_of_ten_resamples_are_enough() -> None:
    alphas = {"a": 1.0, "b": 2.0}
    for wrong, stable in ((1, True), (2, False)):
        drawn = resamples(a=[3.0] * wrong + [1.0] * (10 - wrong), b=[2.0] * 10)
        assert [value.stable for value in decision_stability(halves, alphas, drawn, {}).values()] == [stable] * 2


def test_another_rule_that_decides_otherwise_makes_a_layer_unstable() -> None:
    alphas = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    same, swapped = {"a": 2.0, "b": 1.0, "c": 8.0, "d": 9.0}, {"a": 1.0, "b": 3.0, "c": 2.0, "d": 4.0}
    found = decision_stability(
        halves, alphas, resamples(a=[1], b=[2], c=[3], d=[4]), {"xmin_mid": same, "xmin_ks": swapped}
    )
    assert found["a"] == Stability(True, {"xmin_mid": True, "xmin_ks": True})
    assert found["b"] == Stability(False, {"xmin_mid": True, "xmin_ks": False})


def test_a_layer_without_an_alpha_is_firmly_trained() -> None:
    alphas = {"a": 1.0, "b": math.inf, "c": 3.0}
    drawn = resamples(a=[1, 1], b=[math.inf, math.inf], c=[3, 3])
    assert decision_stability(halves, alphas, drawn, {})["b"].stable


def test_layers_far_from_the_median_are_stable_and_the_middle_ones_are_not() -> None:
    alphas = {f"layer{i}": 2 + 0.1 * i for i in range(40)}
    noise = np.random.default_rng(0).standard_normal((200, 40))
    drawn = {layer: alpha + 0.15 * noise[:, i] for i, (layer, alpha) in enumerate(alphas.items())}
    stable = [stability.stable for stability in decision_stability(halves, alphas, drawn, {}).values()]
    assert all(stable[:15]) and all(stable[25:]) and not any(stable[19:21])


def test_without_resamples_the_other_rules_decide_alone() -> None:
    alphas = {"a": 1.0, "b": 2.0}
    found = decision_stability(halves, alphas, resamples(a=[], b=[]), {"xmin_ks": {"a": 2.0, "b": 1.0}})
    assert found["a"] == Stability(False, {"xmin_ks": False})
    assert decision_stability(halves, {}, {}, {}) == {}


def test_selections_over_other_layers_are_a_programming_mistake() -> None:
    right = {"a": [1.0], "b": [1.0]}
    others = {"xmin_ks": {"a": 1.0}}
    for drawn, rules in (
        ({"a": [1.0]}, {}),
        ({**right, "c": [1.0]}, {}),
        ({**right, "b": [1.0, 2]}, {}),
        (right, others),
    ):
        with pytest.raises(ValueError, match="stability needs"):
            decision_stability(halves, {"a": 1.0, "b": 2.0}, resamples(**drawn), rules)


# Resamples.


def pareto(alpha: float, count: int, seed: int = 0) -> Eigenvalues:
    return np.sort((1 - np.random.default_rng(seed).random(count)) ** (-1 / (alpha - 1)))


def whole(values: Eigenvalues) -> PowerLawFit:
    """The tail is the whole spectrum, so theory knows the spread of alpha."""
    return fit_tail(values, 0)


def test_the_spread_of_independent_samples_is_the_standard_error() -> None:
    values = pareto(2.5, 2000)
    alphas, fit = bootstrap_alphas(values, whole, resamples=400, seed=0), whole(values)
    assert alphas.shape == (400,) and alphas.dtype == np.float64
    assert float(alphas.mean()) == pytest.approx(fit.alpha, abs=fit.standard_error / 2)
    assert float(alphas.std()) == pytest.approx(fit.standard_error, rel=0.2)


def test_nineteen_of_twenty_intervals_hold_the_true_exponent() -> None:
    held = 0
    for seed in range(60):
        low, high = interval(bootstrap_alphas(pareto(3.0, 300, seed), whole, resamples=100, seed=seed))
        held += low <= 3.0 <= high
    assert 51 <= held < 60


def test_every_resample_is_drawn_with_replacement_and_fitted_anew() -> None:
    values = pareto(2.0, 120)
    for fit in map(estimator, ESTIMATORS.names()):
        generator = np.random.Generator(np.random.PCG64(7))
        expected = [fit(values[np.sort(generator.integers(120, size=120))]).alpha for _ in range(5)]
        assert bootstrap_alphas(values, fit, resamples=5, seed=7).tolist() == expected


def test_seeds_and_nothing_else_decide() -> None:
    values, fit = pareto(2.0, 50), estimator("xmin_mid")
    first = bootstrap_alphas(values, fit, resamples=10, seed=1)
    np.random.seed(99)
    assert bootstrap_alphas(values, fit, resamples=10, seed=1).tolist() == first.tolist()
    assert bootstrap_alphas(values, fit, resamples=10, seed=2).tolist() != first.tolist()
    assert bootstrap_alphas(values, fit, resamples=4, seed=1).tolist() == first[:4].tolist()


def test_resamples_without_a_fit_are_infinite() -> None:
    for values in (np.ones(1), np.ones(9), np.zeros(9)):
        alphas = bootstrap_alphas(values, estimator("xmin_ks"), resamples=3, seed=0)
        assert alphas.tolist() == [math.inf] * 3
        assert interval(alphas) == (math.inf, math.inf)


def test_an_interval_leaves_the_same_number_out_on_both_sides() -> None:
    alphas = np.random.default_rng(0).permutation(200).astype(np.float64)
    assert interval(alphas) == (5.0, 194.0)
    assert interval(alphas, level=0.5) == (50.0, 149.0)
    assert interval(alphas[:1]) == (float(alphas[0]),) * 2


def test_an_end_is_infinite_only_with_too_many_unfitted_resamples() -> None:
    alphas = np.array([*range(195), *[math.inf] * 5])
    assert interval(alphas) == (5.0, 194.0)
    assert interval(np.append(alphas[1:], math.inf))[1] == math.inf


def test_an_interval_of_nothing_is_a_programming_mistake() -> None:
    for count, level in ((0, 0.95), (5, 0.0), (5, 1.0), (5, math.nan)):
        with pytest.raises(ValueError, match="no interval of level"):
            interval(np.ones(count), level)


# Random weights.


def test_the_control_is_the_alpha_of_gaussian_weights() -> None:
    shape = (20, 10, 3, 3)
    for fit in map(estimator, ESTIMATORS.names()):
        random = np.random.Generator(np.random.PCG64(3))
        expected = [fit(eigenvalues(random.standard_normal(shape) * 0.2)).alpha for _ in "ab"]
        assert null_alphas(shape, 0.2, fit, samples=2, seed=3).tolist() == expected


def test_the_scale_matters_only_through_the_threshold() -> None:
    fit = estimator("xmin_mid")
    large, larger, small = (null_alphas((32, 32), scale, fit, samples=3, seed=0) for scale in (1.0, 10.0, 1e-3))
    np.testing.assert_allclose(large, larger)
    assert not np.allclose(large, small)


def test_seeds_alone_decide_what_random_weights_get() -> None:
    fit = estimator("xmin_mid")
    first = null_alphas((16, 16), 1.0, fit, samples=3, seed=0).tolist()
    np.random.seed(5)
    assert null_alphas((16, 16), 1.0, fit, samples=3, seed=0).tolist() == first
    assert null_alphas((16, 16), 1.0, fit, samples=3, seed=1).tolist() != first


def test_the_upper_half_of_a_marchenko_pastur_bulk_is_met() -> None:
    # For square matrices lambda = 4 n sin(t)**2 with density (2 / pi) cos(t)**2 2 dt on [0, pi / 2].
    angles = (np.arange(200_000) + 0.5) / 200_000 * np.pi / 2
    mass = 4 / np.pi * np.cos(angles) ** 2 * (np.pi / 2 / 200_000)
    upper = np.cumsum(mass) >= 0.5
    logs = 2 * np.log(np.sin(angles[upper]))
    expected = 1 + 0.5 / float((mass[upper] * (logs - logs[0])).sum())
    assert float(null_alphas((400, 400), 1.0, estimator("xmin_mid"), samples=3, seed=0).mean()) == pytest.approx(
        expected, rel=0.03
    )


def test_strong_directions_put_a_weight_outside_its_control() -> None:
    random = np.random.RandomState(0)
    weight = random.standard_normal((128, 16)) @ random.standard_normal((16, 128)) + random.standard_normal((128, 128))
    fit, scale = estimator("xmin_mid"), float(np.sqrt((weight**2).mean()))
    control = null_alphas((128, 128), scale, fit, samples=20, seed=0)
    assert fit(eigenvalues(weight)).alpha < float(control.min())


def test_a_control_that_cannot_be_fitted_is_infinite() -> None:
    assert null_alphas((4, 4), 0.0, estimator("xmin_ks"), samples=2, seed=0).tolist() == [math.inf] * 2


def test_shapes_without_a_spectrum_are_refused() -> None:
    for shape in ((4,), (4, 0), (2, 2, 2)):
        with pytest.raises(SpectrumError):
            null_alphas(shape, 1.0, estimator("xmin_mid"), samples=1, seed=0)
