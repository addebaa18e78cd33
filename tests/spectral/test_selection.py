"""Which layers are frozen: counts, the median rule, the controls, and what is refused."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.spectral.selection import median_alpha, select_frozen


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
