"""The random twin of a run: same counts, nested, chosen by chance."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.control import random_control_masks, random_scores
from opentrans_cli.sparsity.patterns.unstructured import Unstructured

SHAPES = {"conv1": (4, 3, 3, 3), "layer1.0.conv1": (8, 4, 1, 1)}


@settings(deadline=None, max_examples=30)
@given(
    first=st.lists(st.integers(0, 108), min_size=1, max_size=4),
    second=st.integers(0, 32),
    seed=st.integers(0, 2**40),
)
def test_twins_have_the_given_counts_and_are_nested(first, second, seed):
    counts = [{"conv1": n, "layer1.0.conv1": second} for n in sorted(first, reverse=True)]
    rounds = random_control_masks(counts, SHAPES, seed)
    previous = {layer: torch.ones(shape, dtype=torch.bool) for layer, shape in SHAPES.items()}
    for masks, kept in zip(rounds, counts, strict=True):
        for layer, shape in SHAPES.items():
            assert masks[layer].shape == shape and masks[layer].dtype == torch.bool
            assert int(masks[layer].sum()) == kept[layer]
            assert not (masks[layer] & ~previous[layer]).any()
        previous = masks


def test_twins_depend_on_the_seed_and_not_on_the_order_of_layers():
    counts = [{"conv1": 50, "layer1.0.conv1": 10}]
    once = random_control_masks(counts, SHAPES, 3)[0]
    reordered = random_control_masks(counts, dict(reversed(SHAPES.items())), 3)[0]
    other = random_control_masks(counts, SHAPES, 4)[0]
    for layer in SHAPES:
        assert torch.equal(once[layer], reordered[layer])
        assert not torch.equal(once[layer], other[layer])


def test_every_weight_is_equally_likely_to_stay():
    kept = torch.stack([random_control_masks([{"a": 5}], {"a": (20,)}, seed)[0]["a"] for seed in range(400)])
    assert (kept.double().mean(dim=0) - 0.25).abs().max() < 0.09


def test_the_twin_of_random_pruning_with_the_same_seed_is_not_its_mirror_image():
    pruned = Unstructured().masks(random_scores({"a": (2000,)}, 0), 0.5)["a"]
    twin = random_control_masks([{"a": 1000}], {"a": (2000,)}, 0)[0]["a"]
    assert 0.2 < (pruned & twin).double().mean() < 0.3


def test_no_rounds_give_no_masks():
    assert random_control_masks([], SHAPES, 0) == []


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([{}], "no kept count: a in round 1;"),
        ([{"a": 5}, {"a": 6}], "out of range: a in round 2, 6 of 5;"),
        ([{"a": 21}], "out of range: a in round 1, 21 of 20;"),
        ([{"a": -1}], "out of range: a in round 1, -1 of 20;"),
    ],
)
def test_impossible_counts_are_refused_by_layer_and_round(counts, message):
    with pytest.raises(MaskError, match=message):
        random_control_masks(counts, {"a": (4, 5)}, 0)
