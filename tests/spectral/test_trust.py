"""How far an alpha can be relied on: intervals, stable decisions, and what random weights get."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.reporter import SILENT
from opentrans_cli.spectral.estimators import ESTIMATORS, estimator
from opentrans_cli.spectral.measure import LayerSpectrum, measure
from opentrans_cli.spectral.selection import Selection
from opentrans_cli.spectral.trust import NULL_DRAWS, Trust, judge

FIT = estimator("xmin_peak")
MEDIAN = Selection("heavy").choose


def weights() -> dict[str, Tensor]:
    """Two layers with heavy tails of unlike weight, one random, one without an alpha."""
    generator = torch.Generator().manual_seed(1)
    normal = {name: torch.randn(64, 48, generator=generator) * 0.1 for name in ("steep", "flat", "random")}
    left, _, right = torch.linalg.svd(normal["steep"], full_matrices=False)
    falling = torch.arange(1, 49, dtype=torch.float32)
    return {
        "steep": left * falling.pow(-1.2) @ right,
        "flat": left * falling.pow(-0.6) @ right,
        "random": normal["random"],
        "zero": torch.zeros(20, 20),
    }


def spectra(*names: str) -> tuple[LayerSpectrum, ...]:
    others = {rule: estimator(rule) for rule in ESTIMATORS.names() if rule != "xmin_peak"}
    return measure(names or tuple(weights()), weights().__getitem__, FIT, others=others)


def judged(*names: str, resamples: int = 0, null: bool = False, seed: int = 0) -> Mapping[str, Trust]:
    return judge(spectra(*names), FIT, MEDIAN, resamples=resamples, null=null, seed=seed, reporter=SILENT)


def test_without_resamples_the_other_rules_alone_decide_whether_a_decision_is_stable() -> None:
    found, measured = judged(), spectra()
    frozen = {
        rule: set(MEDIAN({layer.name: layer.other_alpha(rule) for layer in measured}))
        for rule in ("xmin_mid", "xmin_ks")
    }
    own = set(MEDIAN({layer.name: layer.alpha for layer in measured}))
    for name, trust in found.items():
        same = {rule: (name in chosen) == (name in own) for rule, chosen in frozen.items()}
        assert (trust.stability.by_rule, trust.stability.stable) == (same, all(same.values()))
        assert trust.interval is None and trust.null is None and trust.stability.agreement == 1
        assert set(trust.to_json()) == {"stable", "same_decision_by"}


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
        interval = found[layer.name].interval
        assert interval is not None and interval[0] <= interval[1]
        assert (interval == (math.inf, math.inf)) == (layer.name == "zero")
    assert found["zero"].to_json()["interval"] == [None, None]
    assert all(0 <= trust.stability.agreement <= 1 for trust in found.values())


def test_a_trained_layer_lies_outside_of_what_random_weights_get() -> None:
    found = judged(null=True)
    alphas = {layer.name: layer.alpha for layer in spectra()}
    for name in ("steep", "flat", "random"):
        null = found[name].null
        assert null is not None and len(null) == NULL_DRAWS and list(null) == sorted(null)
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
    """Two layers of one spectrum: which of them lies below the median is a matter of the draw."""
    twins = {"a": weights()["steep"], "b": weights()["steep"] * 1.001}
    measured = measure(["a", "b"], twins.__getitem__, FIT)
    trust = judge(measured, FIT, MEDIAN, resamples=60, null=False, seed=0, reporter=SILENT)
    assert all(0.2 < layer.stability.agreement < 0.8 and not layer.stability.stable for layer in trust.values())
    firm = judge(measured, FIT, lambda alphas: ("a",), resamples=60, null=False, seed=0, reporter=SILENT)
    assert all(layer.stability.agreement == 1 and layer.stability.stable for layer in firm.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_threads_gives_the_same_figures(threads: int) -> None:
    expected = judged(resamples=10, null=True)
    torch.set_num_threads(threads)
    try:
        assert judged(resamples=10, null=True) == expected
    finally:
        torch.set_num_threads(1)


def test_what_trust_adds_to_a_report_is_in_the_contract() -> None:
    for name, trust in judged(resamples=5, null=True).items():
        entry = {"name": name, "alpha": None, "ks_distance": 1, "xmin": 0, "tail_size": 0, "eigenvalues": 1}
        layer = {**entry, "decision": "trained", "verdict": "zero matrix", **trust.to_json()}
        check_document({"estimator": "xmin_peak", "median_alpha": 2, "layers": [layer]}, "analyze_report")
