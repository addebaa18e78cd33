"""Random scores, and the random control of a run: same counts, nested, chosen by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.control import random_control_masks, random_scores
from opentrans_cli.sparsity.patterns.unstructured import Unstructured

SHAPES = {"conv1": (4, 3, 3, 3), "layer1.0.conv1": (8, 4, 1, 1)}


def test_random_scores_are_uniform_and_the_same_on_every_platform():
    scores = random_scores({"conv": (40, 50, 3, 3)}, 0)["conv"]
    assert scores.shape == (40, 50, 3, 3) and scores.dtype == np.float64
    assert scores.min() >= 0 and scores.max() < 1
    counts = np.histogram(scores, bins=10, range=(0, 1))[0] / scores.size
    np.testing.assert_allclose(counts, 0.1, atol=0.01)
    fixed = [0.7462303924511778, 0.6820058166775435, 0.7881432419464143]
    assert random_scores({"layer1.0.conv1": (3,)}, 7)["layer1.0.conv1"].tolist() == fixed
    assert [random_scores({"a": shape}, 0)["a"].shape for shape in ((), (0, 3), (1,))] == [(), (0, 3), (1,)]


def test_random_scores_depend_on_seed_and_name_alone():
    alone = random_scores({"b": (5,)}, 0)["b"]
    assert np.array_equal(alone, random_scores({"a": (9,), "b": (5,)}, 0)["b"])
    assert not np.array_equal(alone, random_scores({"b": (5,)}, 1)["b"])
    assert not np.array_equal(alone, random_scores({"c": (5,)}, 0)["c"])


@settings(deadline=None, max_examples=30)
@given(
    first=st.lists(st.integers(0, 108), max_size=4),
    second=st.integers(0, 32),
    seed=st.integers(0, 2**40),
)
def test_controls_have_the_given_counts_and_are_nested_whatever_the_order_of_layers(first, second, seed):
    counts = [{"conv1": n, "layer1.0.conv1": second} for n in sorted(first, reverse=True)]
    rounds = random_control_masks(counts, SHAPES, seed)
    reordered = random_control_masks(counts, dict(reversed(SHAPES.items())), seed)
    previous = {layer: np.ones(shape, np.bool_) for layer, shape in SHAPES.items()}
    for masks, others, kept in zip(rounds, reordered, counts, strict=True):
        for layer, shape in SHAPES.items():
            assert masks[layer].shape == shape and masks[layer].dtype == np.bool_
            assert int(masks[layer].sum()) == kept[layer]
            assert not (masks[layer] & ~previous[layer]).any() and np.array_equal(masks[layer], others[layer])
        previous = masks


def test_every_weight_is_equally_likely_to_stay_and_seeds_differ():
    kept = np.stack([random_control_masks([{"a": 5}], {"a": (20,)}, seed)[0]["a"] for seed in range(400)])
    assert abs(kept.mean(0) - 0.25).max() < 0.09


def test_the_control_of_random_pruning_with_the_same_seed_is_not_its_mirror_image():
    pruned = Unstructured().masks(random_scores({"a": (2000,)}, 0), 0.5)["a"]
    control = random_control_masks([{"a": 1000}], {"a": (2000,)}, 0)[0]["a"]
    assert 0.2 < (pruned & control).mean() < 0.3


def test_impossible_counts_are_refused_by_layer_and_round():
    for counts, message in (
        ([{}], "no kept count: a in round 1;"),
        ([{"a": 5}, {"a": 6}], "out of range: a in round 2, 6 of 5;"),
        ([{"a": 21}], "out of range: a in round 1, 21 of 20;"),
        ([{"a": -1}], "out of range: a in round 1, -1 of 20;"),
    ):
        with pytest.raises(MaskError, match=message):
            random_control_masks(counts, {"a": (4, 5)}, 0)
