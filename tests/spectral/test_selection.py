"""Which layers are frozen: counts, the median rule, the controls, and what is refused."""

from __future__ import annotations

import math
import random
import re
import statistics

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.spectral.selection import Selection, median_alpha


def select_frozen(alphas, *, mode, ratio=0.5, seed=0):
    return Selection(mode, ratio=ratio, seed=seed).choose(alphas)


def distinct_alphas(count: int) -> dict[str, float]:
    order = random.Random(0).sample(range(count), count)
    return {f"layer{index}": 1.5 + rank / 7 for index, rank in enumerate(order)}


@pytest.mark.parametrize("count", [1, 2, 3, 10, 54, 55])
def test_half_of_the_layers_means_strictly_below_the_median(count):
    alphas = distinct_alphas(count)
    below = tuple(layer for layer, alpha in alphas.items() if alpha < statistics.median(alphas.values()))
    assert select_frozen(alphas, mode="heavy") == below


def test_of_55_layers_27_are_frozen_and_the_median_layer_is_trained():
    alphas = distinct_alphas(55)
    frozen = select_frozen(alphas, mode="heavy")
    median_layer = next(layer for layer, alpha in alphas.items() if alpha == median_alpha(alphas))
    assert len(frozen) == 27 and len(set(alphas) - set(frozen)) == 28
    assert median_layer not in frozen


def test_light_freezes_as_many_of_the_largest():
    alphas = distinct_alphas(55)
    light, heavy = select_frozen(alphas, mode="light"), select_frozen(alphas, mode="heavy")
    assert len(light) == 27 and not set(light) & set(heavy)
    assert min(alphas[layer] for layer in light) > median_alpha(alphas)


@pytest.mark.parametrize("mode", ["heavy", "light", "random"])
def test_frozen_layers_come_in_layer_order(mode):
    alphas = distinct_alphas(20)
    frozen = select_frozen(alphas, mode=mode)
    assert list(frozen) == [layer for layer in alphas if layer in frozen]


@pytest.mark.parametrize("mode", ["heavy", "light", "random"])
@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (0.29, 29), (0.295, 29), (0.3, 30), (0.999, 99), (1.0, 100)])
def test_every_mode_freezes_the_same_number(mode, ratio, expected):
    assert len(select_frozen(distinct_alphas(100), mode=mode, ratio=ratio)) == expected


def test_random_depends_on_the_seed_and_not_on_the_order_of_layers():
    alphas = distinct_alphas(30)
    backwards = dict(reversed(alphas.items()))
    assert set(select_frozen(alphas, mode="random", seed=1)) == set(select_frozen(backwards, mode="random", seed=1))
    assert select_frozen(alphas, mode="random", seed=1) != select_frozen(alphas, mode="random", seed=2)


def test_random_is_the_same_on_every_platform():
    alphas = dict.fromkeys("abcdefgh", 2.0)
    assert select_frozen(alphas, mode="random", seed=0) == ("d", "f", "g", "h")


def test_none_freezes_nothing():
    assert select_frozen(distinct_alphas(10), mode="none") == ()


@pytest.mark.parametrize("mode", ["heavy", "light", "random"])
def test_layers_that_could_not_be_fitted_are_never_frozen(mode):
    alphas = {"a": math.inf, "b": 2.0, "c": math.inf, "d": 3.0, "e": math.inf}
    assert select_frozen(alphas, mode=mode, ratio=1.0) == ("b", "d")


def test_equal_alphas_freeze_earlier_layers_first():
    alphas = {"a": 2.0, "b": 2.0, "c": 2.0, "d": 2.0}
    assert select_frozen(alphas, mode="heavy") == select_frozen(alphas, mode="light") == ("a", "b")


def test_no_layers_freeze_nothing():
    assert select_frozen({}, mode="heavy") == ()


@pytest.mark.parametrize("ratio", [-0.01, 1.01, math.nan])
def test_a_ratio_out_of_range_is_refused(ratio):
    with pytest.raises(OptionError, match=rf"{ratio}; choose a number from 0 to 1"):
        select_frozen({"a": 2.0}, mode="heavy", ratio=ratio)


def test_an_unknown_mode_is_refused_with_the_known_ones():
    with pytest.raises(OptionError, match="'heavyish'; choose one of heavy, light, random, none"):
        select_frozen({"a": 2.0}, mode="heavyish")


def test_nan_is_a_programming_mistake():
    with pytest.raises(ValueError, match="NaN"):
        select_frozen({"a": math.nan}, mode="heavy")


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    assert median_alpha({"a": 4.0, "b": 2.0, "c": 3.0, "d": math.inf}) == 3.5
    assert median_alpha({"a": 2.0, "b": math.inf, "c": math.inf}) == math.inf


@pytest.mark.parametrize("count", [1, 2, 3, 10, 54, 55])
def test_the_median_rule_freezes_strictly_below_it_or_strictly_above_it(count):
    alphas = distinct_alphas(count)
    middle = statistics.median(alphas.values())
    heavy, light = Selection("heavy").choose(alphas), Selection("light").choose(alphas)
    assert set(heavy) == {layer for layer, alpha in alphas.items() if alpha < middle}
    assert set(light) == {layer for layer, alpha in alphas.items() if alpha > middle}
    assert len(heavy) == len(light) == count // 2


def test_layers_that_tie_with_the_median_are_trained():
    alphas = {"a": 2.0, "b": 2.0, "c": 1.5, "d": 2.0, "e": 3.0}
    assert Selection("heavy").choose(alphas) == ("c",)
    assert Selection("light").choose(alphas) == ("e",)


def test_untrusted_layers_count_in_the_median_as_the_largest_and_stay_trained():
    alphas = {"a": math.inf, "b": 2.0, "c": 3.0, "d": 4.0, "e": math.inf}
    assert median_alpha(alphas) == 4.0
    assert Selection("heavy").choose(alphas) == ("b", "c")
    assert Selection("light").choose(alphas) == ()
    mostly = {"a": math.inf, "b": 2.0, "c": math.inf}
    assert Selection("heavy").choose(mostly) == Selection("random").choose(mostly) == ("b",)


@pytest.mark.parametrize("rule", [{}, {"ratio": 0.3}])
def test_random_freezes_as_many_as_heavy_by_the_same_rule(rule):
    alphas = distinct_alphas(55)
    heavy = Selection("heavy", **rule).choose(alphas)
    draws = {Selection("random", **rule, seed=seed).choose(alphas) for seed in range(5)}
    assert {len(draw) for draw in draws} == {len(heavy)}
    assert len(draws) == 5


def test_a_threshold_freezes_strictly_beyond_it():
    alphas = {"a": 1.5, "b": 2.0, "c": 2.5, "d": math.inf, "e": 3.0}
    assert Selection("heavy", threshold=2.0).choose(alphas) == ("a",)
    assert Selection("light", threshold=2.0).choose(alphas) == ("c", "e")
    assert Selection("heavy", threshold=9.0).choose(alphas) == ("a", "b", "c", "e")


def test_top_takes_the_most_expensive_of_the_layers_the_median_allows():
    alphas = {"a": 1.0, "b": 1.1, "c": 1.2, "d": 2.0, "e": 3.0, "f": 3.1, "g": math.inf}
    costs = {"a": 10, "b": 30, "c": 20, "d": 99, "e": 5, "f": 7, "g": 99}
    assert Selection("heavy", top=2).choose(alphas, costs) == ("b", "c")
    assert Selection("light", top=1).choose(alphas, costs) == ("f",)
    assert Selection("heavy", top=0).choose(alphas, costs) == ()
    assert Selection("heavy", top=9).choose(alphas, costs) == Selection("heavy").choose(alphas) == ("a", "b", "c")


def test_equal_costs_freeze_earlier_layers_first_and_unused_layers_last():
    alphas = {"a": 1.0, "b": 1.1, "c": 1.2, "d": 2.0, "e": 3.0, "f": 4.0}
    assert Selection(top=1).choose(alphas, {"b": 5, "c": 5}) == ("b",)
    assert Selection(top=2).choose(alphas, {"c": 5}) == ("a", "c")


def test_a_selection_names_its_rule():
    rules = [
        Selection(),
        Selection(ratio=0.2),
        Selection(threshold=2.0),
        Selection(top=3),
        Selection("none", ratio=0.2),
    ]
    assert [selection.rule for selection in rules] == ["median", "ratio", "threshold", "top", "none"]
    assert Selection(ratio=0.0).rule == "ratio" and Selection(top=0).rule == "top"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 0.5, "top": 3}, "more than one rule says which layers to freeze: ratio and top; give one"),
        ({"threshold": 2.0, "top": 3}, "threshold and top; give one"),
        ({"ratio": math.nan}, "nan; choose a number from 0 to 1"),
        ({"threshold": 1.0}, "1.0; choose a number above 1"),
        ({"threshold": math.nan}, "nan; choose a number above 1"),
        ({"threshold": math.inf}, "inf; choose a number above 1"),
        ({"top": -1}, "-1; choose 0 or more"),
        ({"mode": "random", "threshold": 2.0}, "threshold needs alphas to compare: freeze mode 'random'"),
        ({"mode": "none", "top": 2}, "top needs alphas to compare: freeze mode 'none'"),
        ({"mode": "tail"}, "unknown freeze mode: 'tail'"),
    ],
)
def test_a_wrong_selection_is_refused_in_one_line(fields, message):
    with pytest.raises(OptionError, match=re.escape(message)) as refusal:
        Selection(**fields).check()
    assert "\n" not in str(refusal.value) and refusal.value.exit_code == 2
    with pytest.raises(OptionError, match=re.escape(message)):
        Selection(**fields).choose({"a": 2.0}, {})


def test_top_without_costs_is_refused():
    with pytest.raises(OptionError, match="costs of the layers are not known: top 3; give a source"):
        Selection(top=3).choose({"a": 2.0})


def test_no_layers_leave_nothing_to_choose():
    assert Selection().choose({}) == Selection(top=2).choose({}, {}) == Selection("light").choose({}) == ()
