"""Selection by rank: equality with a sort, for every kind of float, tie and part, and its errors."""

from __future__ import annotations

import math
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.errors import MaskError, OptionError
from opentrans_cli.sparsity import selection
from opentrans_cli.sparsity.selection import Computed, Pool

# Few values, so that ties are the rule; both zeros, both infinities, and the smallest numbers beside zero.
VALUES = [-math.inf, -2.5, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1e-40, 0.5, 1.0, 1.0000001, 3e38, math.inf]
DTYPES = [np.float32, np.float64, np.float16]
Array = np.ndarray[Any, Any]


def as_type(values: list[float], dtype: Any) -> Array:
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(dtype)


@st.composite
def layers(draw: st.DrawFn, dtypes: list[Any] = DTYPES) -> dict[str, Array]:
    """One to four layers of special values in mixed precision, empty ones among them."""
    sizes = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))
    return {
        f"layer{number}": as_type(
            draw(st.lists(st.sampled_from(VALUES), min_size=size, max_size=size)), draw(st.sampled_from(dtypes))
        )
        for number, size in enumerate(sizes)
    }


def lowest(scores: dict[str, Array], kept: dict[str, Array], count: int) -> dict[str, list[bool]]:
    """What a sort keeps: lowest first, then the later layer, then the later index."""
    order = sorted(
        (value, -number, -index)
        for number, (layer, score) in enumerate(scores.items())
        for index, value in enumerate(score.flatten().tolist())
        if kept[layer].flatten()[index]
    )
    masks = {layer: mask.flatten().tolist() for layer, mask in kept.items()}
    for _, number, index in order[:count]:
        masks[list(scores)[-number]][-index] = False
    return masks


@settings(deadline=None, max_examples=150)
@given(scores=layers(), data=st.data(), part=st.sampled_from([1, 3, 1 << 18]))
def test_what_is_removed_is_what_a_sort_puts_first(scores, data, part):
    inside = {
        layer: np.array(data.draw(st.lists(st.booleans(), min_size=len(score), max_size=len(score))), np.bool_)
        for layer, score in scores.items()
    }
    for previous in (None, inside):
        kept = inside if previous else {layer: np.ones_like(mask) for layer, mask in inside.items()}
        count = data.draw(st.integers(0, sum(int(mask.sum()) for mask in kept.values())))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(selection, "_PART", part)
            pool = Pool(scores, previous)
            pool.remove(count)
        expected = lowest(scores, kept, count)
        assert {layer: mask.tolist() for layer, mask in pool.masks.items()} == expected
        assert pool.kept == {layer: sum(mask) for layer, mask in expected.items()}


@settings(deadline=None, max_examples=50)
@given(scores=layers(), data=st.data())
def test_removing_in_steps_is_removing_at_once(scores, data):
    total = sum(len(score) for score in scores.values())
    steps = data.draw(st.lists(st.integers(0, total), max_size=4).map(sorted))
    stepwise, at_once = Pool(scores), Pool(scores)
    for before, after in zip([0, *steps], steps, strict=False):
        stepwise.remove(after - before)
    at_once.remove(steps[-1] if steps else 0)
    assert all(np.array_equal(stepwise.masks[layer], at_once.masks[layer]) for layer in scores)


@settings(deadline=None, max_examples=50)
@given(scores=layers(), data=st.data())
def test_removing_from_some_layers_leaves_the_others_whole(scores, data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(scores)), unique=True).map(sorted))
    count = data.draw(st.integers(0, sum(len(scores[layer]) for layer in chosen)))
    pool = Pool(scores)
    pool.remove(count, chosen)
    part = {layer: scores[layer] for layer in chosen}
    expected = lowest(part, {layer: np.ones(len(score)) for layer, score in part.items()}, count)
    for layer, mask in pool.masks.items():
        assert [bool(x) for x in mask] == [bool(x) for x in expected.get(layer, [True] * len(mask))]


@pytest.mark.parametrize(("dtype", "levels"), [(np.float32, None), (np.float64, 5)])
def test_layers_larger_than_a_part_are_ranked_as_one(dtype, levels):
    generator = np.random.default_rng(0)
    scores = {f"layer{n}": generator.standard_normal(300_000).astype(dtype) for n in range(2)}
    if levels:
        scores = {layer: (score * levels).round() for layer, score in scores.items()}
    pool = Pool(scores)
    for count in (1, 123_456, 300_000):
        pool.remove(count)
    # A stable sort of the reversed scores puts the later of two equal ones first.
    order = np.concatenate(tuple(scores.values()))[::-1].argsort(kind="stable")
    expected = np.ones(600_000, np.bool_)
    expected[599_999 - order[:423_457]] = False
    assert np.array_equal(np.concatenate(tuple(pool.masks.values())), expected)


def test_scores_and_previous_masks_are_left_as_they_are():
    scores = {"a": np.array([-1.0, -0.0, 2.0]), "b": np.array([0.0])}
    inside = {"a": np.array([True, False, True]), "b": np.array([True])}
    pool = Pool(scores, inside)
    pool.remove(2)
    assert [math.copysign(1, x) for x in scores["a"].tolist()] == [-1, -1, 1]
    assert inside["a"].tolist() == [True, False, True] and inside["b"].tolist() == [True]
    assert pool.removed == {"a": 2, "b": 1} and pool.sizes == {"a": 3, "b": 1}


def test_the_surplus_counts_what_is_removed_already():
    pool = Pool({"a": np.arange(10.0)}, {"a": np.arange(10) >= 3})
    assert (pool.surplus(0.3), pool.surplus(0.5), pool.surplus(0.999)) == (0, 2, 7)
    with pytest.raises(OptionError, match=r"already pruned: 0\.2; ask for at least 0\.300000"):
        pool.surplus(0.2)


def test_computed_scores_are_a_mapping_of_the_layers_in_order():
    computed = Computed(["b", "a"], lambda layer: np.full(2, float(ord(layer))))
    assert list(computed) == ["b", "a"] and len(computed) == 2 and "c" not in computed
    assert computed["a"].tolist() == [97.0, 97.0]
    with pytest.raises(KeyError, match="c"):
        computed["c"]


def test_computed_scores_do_not_all_exist_at_once():
    weights = {f"layer{number}": np.random.default_rng(number).random(20) for number in range(8)}
    alive: weakref.WeakValueDictionary[int, Array] = weakref.WeakValueDictionary()
    most = 0

    def score(layer: str) -> Array:
        nonlocal most
        scores = weights[layer] + 0
        alive[len(alive)] = scores
        most = max(most, len(alive))
        return scores

    pool = Pool(Computed(weights, score))
    pool.remove(80)
    assert sum(pool.kept.values()) == 80
    assert most == 1


def test_nan_scores_are_refused_by_layer_even_where_the_weight_is_removed():
    inside = {"ok": np.ones(3, np.bool_), "layer1.conv": np.array([True, False, True])}
    for dtype in DTYPES:
        scores = {"ok": np.arange(3.0), "layer1.conv": np.array([1.0, math.nan, math.inf], dtype=dtype)}
        with pytest.raises(MaskError, match=r"NaN: layer1\.conv; check the weights"):
            Pool(scores, inside)
