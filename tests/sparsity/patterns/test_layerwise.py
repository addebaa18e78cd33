"""Layerwise masks: the same share of every layer, in whole weights that sum exactly and never fall."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.patterns.layerwise import shares
from opentrans_cli.sparsity.selection import sparsity_of

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(0).random
LAYERWISE = pattern_for("layerwise", {})

SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=6)
SPARSITIES = st.floats(0, 1, exclude_max=True)


def by_queue(sizes: list[int], removed: list[int], count: int) -> list[int]:
    """The definition: every weight's level, in order, the first ones taken."""
    levels = sorted(
        (Fraction(2 * k - 1, 2 * size), -layer)
        for layer, size in enumerate(sizes)
        for k in range(removed[layer] + 1, size + 1)
    )
    counts = list(removed)
    for _, layer in levels[: count - sum(removed)]:
        counts[-layer] += 1
    return counts


@settings(deadline=None, max_examples=200)
@given(sizes=SIZES, data=st.data())
def test_shares_are_those_that_are_due_first_and_sum_exactly(sizes, data):
    removed = [data.draw(st.integers(0, size)) for size in sizes]
    for already in ([0] * len(sizes), removed):
        count = data.draw(st.integers(sum(already), sum(sizes)))
        counts = shares(sizes, already, count)
        assert sum(counts) == count
        assert counts == by_queue(sizes, already, count)
        assert all(a <= c <= size for a, c, size in zip(already, counts, sizes, strict=True))


@settings(deadline=None, max_examples=30)
@given(sizes=SIZES, data=st.data())
def test_no_share_falls_as_the_count_grows(sizes, data):
    removed = [data.draw(st.integers(0, size)) for size in sizes]
    previous = removed
    for count in range(sum(removed), sum(sizes) + 1):
        counts = shares(sizes, removed, count)
        assert all(now >= before for now, before in zip(counts, previous, strict=True))
        assert shares(sizes, previous, count) == counts
        previous = counts


@settings(deadline=None, max_examples=100)
@given(sizes=st.lists(st.integers(1, 3_000_000), min_size=1, max_size=60), sparsity=SPARSITIES)
def test_shares_are_proportional_to_half_a_weight_and_half_of_each_layers_part_of_all_roundings(sizes, sparsity):
    total = sum(sizes)
    count = round(sparsity * total)
    for share, size in zip(shares(sizes, [0] * len(sizes), count), sizes, strict=True):
        assert abs(share * total - count * size) * 2 <= total + len(sizes) * size


@st.composite
def scored_layers(draw: st.DrawFn) -> dict[str, Array]:
    """One to four layers of small integer scores, so that ties are the rule."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4))
    return {
        f"layer{number}": np.array(
            draw(st.lists(st.integers(-2, 2), min_size=a * b, max_size=a * b)), dtype=np.float32
        ).reshape(a, b)
        for number, (a, b) in enumerate(shapes)
    }


@settings(deadline=None, max_examples=80)
@given(scores=scored_layers(), sparsity=SPARSITIES)
def test_each_layer_loses_its_share_of_the_lowest_scores_from_the_last_to_the_first(scores, sparsity):
    masks = LAYERWISE.masks(scores, sparsity)
    sizes = [score.size for score in scores.values()]
    counts = shares(sizes, [0] * len(sizes), round(sparsity * sum(sizes)))
    for count, (layer, score) in zip(counts, scores.items(), strict=True):
        flat = score.flatten().tolist()
        gone = set(sorted(range(len(flat)), key=lambda index: (flat[index], -index))[:count])
        assert masks[layer].dtype == np.bool_ and masks[layer].shape == score.shape
        assert masks[layer].flatten().tolist() == [index not in gone for index in range(len(flat))]


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsities=st.lists(SPARSITIES, min_size=2, max_size=2).map(sorted))
def test_masks_are_nested_when_sparsity_grows_and_rounds_lead_to_the_same_masks(scores, sparsities):
    loose, tight = (LAYERWISE.masks(scores, sparsity) for sparsity in sparsities)
    assert not any(bool((tight[layer] & ~loose[layer]).any()) for layer in scores)
    again = LAYERWISE.masks(scores, sparsities[1], inside=loose)
    assert all(np.array_equal(again[layer], tight[layer]) for layer in scores)


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsities=st.lists(SPARSITIES, min_size=2, max_size=2).map(sorted))
def test_what_another_pattern_removed_stays_removed_and_counts(scores, sparsities):
    flipped = {layer: -score for layer, score in scores.items()}
    before = pattern_for("unstructured", {}).masks(flipped, sparsities[0])
    after = LAYERWISE.masks(scores, sparsities[1], inside=before)
    assert not any(bool((after[layer] & ~before[layer]).any()) for layer in scores)
    total = sum(score.size for score in scores.values())
    assert sum(int((~mask).sum()) for mask in after.values()) == round(sparsities[1] * total)


def test_a_layer_ahead_of_its_share_is_left_alone_and_the_others_make_up_for_it():
    assert shares([10, 10, 10], [9, 0, 0], 15) == [9, 3, 3]
    assert shares([10, 10, 10], [9, 4, 0], 15) == [9, 4, 2]


def test_layers_of_very_different_size_lose_the_same_share():
    scores = {"small": RANDOM((10, 10)), "large": RANDOM((100, 100)), "lower": RANDOM((50, 20)) * 1e-3}
    masks = LAYERWISE.masks(scores, 0.9)
    assert [sparsity_of({layer: mask}) for layer, mask in masks.items()] == [0.9, 0.9, 0.9]
