"""Unstructured masks: equality with torch's global pruning, and the laws of every mask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.selection import Computed

Array = np.ndarray[Any, Any]
UNSTRUCTURED = pattern_for("unstructured", {})


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1, bias=False))


def sizes(weights: dict[str, torch.Tensor]) -> dict[str, Array]:
    return {layer: weight.detach().abs().numpy() for layer, weight in weights.items()}


def conv_weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.weight for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}


def prune_with_torch(net: nn.Module, amount: float | int) -> dict[str, Array]:
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}
    chosen = [(layer, "weight") for layer in layers.values()]
    prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=amount)
    return {name: layer.weight_mask.bool().numpy() for name, layer in layers.items()}


def assert_same_masks(ours: dict[str, Array], theirs: dict[str, Array]) -> None:
    assert list(ours) == list(theirs)
    for layer, mask in ours.items():
        assert np.array_equal(mask, theirs[layer]), layer


def test_masks_equal_those_of_torch_global_unstructured():
    for sparsity in (0.0, 0.1, 0.5, 0.9, 0.999):
        ours = UNSTRUCTURED.masks(sizes(conv_weights(small_net())), sparsity)
        assert_same_masks(ours, prune_with_torch(small_net(), sparsity))


def test_iterated_rounds_with_training_between_equal_torch():
    net, twin = small_net(), small_net()
    masks, total = None, sum(weight.numel() for weight in conv_weights(net).values())
    for number in range(1, 6):
        scores = sizes(conv_weights(net))
        masks = UNSTRUCTURED.masks(scores, 1 - 0.9**number, inside=masks)
        count = round((1 - 0.9**number) * total) - round((1 - 0.9 ** (number - 1)) * total)
        assert_same_masks(masks, prune_with_torch(twin, count))
        generator = torch.Generator().manual_seed(number)
        for name, weight in conv_weights(net).items():
            step = 0.05 * torch.randn(weight.shape, generator=generator)
            with torch.no_grad():
                weight.add_(step)
                twin.get_submodule(name).weight_orig.add_(step)
        # torch ranks `weight`, which a forward pass recomputes from `weight_orig` and the mask.
        twin(torch.zeros(1, 3, 8, 8))


@st.composite
def scored_layers(draw: st.DrawFn) -> dict[str, Array]:
    """One to four layers of small integer scores, so that ties are the rule."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4))
    return {
        f"layer{number}": np.array(
            draw(st.lists(st.integers(0, 3), min_size=a * b, max_size=a * b)), dtype=np.float32
        ).reshape(a, b)
        for number, (a, b) in enumerate(shapes)
    }


SPARSITIES = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsity=SPARSITIES)
def test_ties_go_from_the_last_weight_to_the_first(scores, sparsity):
    flat = np.concatenate([score.flatten() for score in scores.values()]).tolist()
    order = sorted(range(len(flat)), key=lambda index: (flat[index], -index))
    gone = set(order[: round(sparsity * len(flat))])
    masks = UNSTRUCTURED.masks(scores, sparsity)
    assert all(masks[layer].shape == score.shape and masks[layer].dtype == np.bool_ for layer, score in scores.items())
    kept = np.concatenate([mask.flatten() for mask in masks.values()]).tolist()
    assert kept == [index not in gone for index in range(len(flat))]


def test_half_a_weight_is_rounded_to_even_as_in_torch_and_just_below_one_all_may_go():
    for count, sparsity, gone in ((5, 0.5, 2), (7, 0.5, 4), (10, math.nextafter(1, 0), 10)):
        mask = UNSTRUCTURED.masks({"a": np.arange(count, dtype=np.float32)}, sparsity)["a"]
        assert int((~mask).sum()) == gone
    assert UNSTRUCTURED.masks({}, 0.5) == {}


def test_layers_of_different_precision_share_one_threshold():
    third = np.array([1 / 3, 2.0])
    scores = {"wide": third, "narrow": third.astype(np.float32), "half": np.array([0.25, 4.0], np.float16)}
    masks = UNSTRUCTURED.masks(scores, 2 / 6)
    assert [mask.tolist() for mask in masks.values()] == [[False, True], [True, True], [False, True]]


def test_scores_computed_when_asked_for_give_the_same_masks():
    weights = conv_weights(small_net())
    computed = Computed(weights, lambda layer: weights[layer].detach().abs().numpy())
    before = UNSTRUCTURED.masks(sizes(weights), 0.2)
    for inside in (None, before):
        expected = UNSTRUCTURED.masks(sizes(weights), 0.7, inside=inside)
        assert_same_masks(UNSTRUCTURED.masks(computed, 0.7, inside=inside), expected)
