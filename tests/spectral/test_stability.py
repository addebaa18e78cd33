"""Decisions under resampling and other rules: hand-made cases, and the layers near the median."""

from __future__ import annotations

import math

import pytest
import torch

from opentrans_cli.spectral.selection import Selection
from opentrans_cli.spectral.stability import Stability, decision_stability


def halves(alphas):
    return Selection("heavy", ratio=0.5).choose(alphas)


def resamples(**alphas: list[float]) -> dict[str, torch.Tensor]:
    return {layer: torch.tensor(values, dtype=torch.float64) for layer, values in alphas.items()}


def test_the_agreement_is_the_share_of_selections_that_decide_the_same():
    alphas = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}
    # b and c change places in the second of four resamples, and d moves without a consequence.
    drawn = resamples(a=[1, 1, 1, 1], b=[2, 3, 2, 2], c=[3, 2, 3, 3], d=[9, 50, 4, math.inf])
    found = decision_stability(halves, alphas, drawn, {})
    assert {layer: stability.agreement for layer, stability in found.items()} == {"a": 1, "b": 0.75, "c": 0.75, "d": 1}
    assert [layer for layer, stability in found.items() if stability.stable] == ["a", "d"]


def test_nine_of_ten_resamples_are_enough():
    alphas = {"a": 1.0, "b": 2.0}
    for wrong, stable in ((1, True), (2, False)):
        drawn = resamples(a=[3.0] * wrong + [1.0] * (10 - wrong), b=[2.0] * 10)
        assert [value.stable for value in decision_stability(halves, alphas, drawn, {}).values()] == [stable] * 2


def test_another_rule_that_decides_otherwise_makes_a_layer_unstable():
    alphas = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    same, swapped = {"a": 2.0, "b": 1.0, "c": 8.0, "d": 9.0}, {"a": 1.0, "b": 3.0, "c": 2.0, "d": 4.0}
    found = decision_stability(
        halves, alphas, resamples(a=[1], b=[2], c=[3], d=[4]), {"xmin_mid": same, "xmin_ks": swapped}
    )
    assert found["a"] == Stability(1.0, {"xmin_mid": True, "xmin_ks": True}, True)
    assert found["b"] == Stability(1.0, {"xmin_mid": True, "xmin_ks": False}, False)


def test_a_layer_that_is_never_trusted_is_firmly_trained():
    alphas = {"a": 1.0, "b": math.inf, "c": 3.0}
    drawn = resamples(a=[1, 1], b=[math.inf, math.inf], c=[3, 3])
    assert decision_stability(halves, alphas, drawn, {})["b"].stable


def test_layers_far_from_the_median_are_stable_and_the_middle_ones_are_not():
    alphas = {f"layer{i}": 2 + 0.1 * i for i in range(40)}
    noise = torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = {layer: alpha + 0.15 * noise[:, i] for i, (layer, alpha) in enumerate(alphas.items())}
    stable = [stability.stable for stability in decision_stability(halves, alphas, drawn, {}).values()]
    assert all(stable[:15]) and all(stable[25:]) and not any(stable[19:21])


def test_without_resamples_the_other_rules_decide_alone():
    alphas = {"a": 1.0, "b": 2.0}
    found = decision_stability(halves, alphas, resamples(a=[], b=[]), {"xmin_ks": {"a": 2.0, "b": 1.0}})
    assert found["a"] == Stability(1.0, {"xmin_ks": False}, False)
    assert decision_stability(halves, {}, {}, {}) == {}


@pytest.mark.parametrize(
    ("drawn", "others"),
    [
        (resamples(a=[1]), {}),
        (resamples(a=[1], b=[1], c=[1]), {}),
        (resamples(a=[1], b=[1, 2]), {}),
        (resamples(a=[1], b=[1]), {"xmin_ks": {"a": 1.0}}),
    ],
)
def test_selections_over_other_layers_are_a_programming_mistake(drawn, others):
    with pytest.raises(ValueError, match="stability needs"):
        decision_stability(halves, {"a": 1.0, "b": 2.0}, drawn, others)
