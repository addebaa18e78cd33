"""Unstructured masks: equality with torch's global pruning, and the laws of every mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from opentrans_cli.errors import MaskError, OptionError
from opentrans_cli.sparsity.masking import sparsity_of
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.selection import Computed

UNSTRUCTURED = pattern_for("unstructured", nn.Identity())


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 4, 1, bias=False))


def sizes(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {layer: weight.detach().abs() for layer, weight in weights.items()}


def conv_weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.weight for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}


def prune_with_torch(net: nn.Module, amount: float | int) -> dict[str, torch.Tensor]:
    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d)}
    chosen = [(layer, "weight") for layer in layers.values()]
    prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=amount)
    return {name: layer.weight_mask.bool() for name, layer in layers.items()}


def assert_same_masks(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert list(ours) == list(theirs)
    for layer, mask in ours.items():
        assert torch.equal(mask, theirs[layer]), layer


def removed(masks: dict[str, torch.Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_masks_equal_those_of_torch_global_unstructured(sparsity):
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
def scored_layers(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """One to four layers of small integer scores, so that ties are the rule."""
    shapes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=4))
    return {
        f"layer{number}": torch.tensor(
            draw(st.lists(st.integers(0, 3), min_size=a * b, max_size=a * b)), dtype=torch.float32
        ).reshape(a, b)
        for number, (a, b) in enumerate(shapes)
    }


SPARSITIES = st.floats(0, 1, exclude_max=True)


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsity=SPARSITIES)
def test_exactly_the_rounded_number_of_the_lowest_scores_is_removed(scores, sparsity):
    masks = UNSTRUCTURED.masks(scores, sparsity)
    total = sum(score.numel() for score in scores.values())
    assert removed(masks) == round(sparsity * total)
    assert all(masks[layer].shape == score.shape for layer, score in scores.items())
    assert all(mask.dtype == torch.bool for mask in masks.values())
    gone = [x for layer, score in scores.items() for x in score[~masks[layer]].tolist()]
    stay = [x for layer, score in scores.items() for x in score[masks[layer]].tolist()]
    assert max(gone, default=-1) <= min(stay, default=math.inf)


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsity=SPARSITIES)
def test_ties_go_from_the_last_weight_to_the_first(scores, sparsity):
    flat = torch.cat([score.flatten() for score in scores.values()]).tolist()
    order = sorted(range(len(flat)), key=lambda index: (flat[index], -index))
    gone = set(order[: round(sparsity * len(flat))])
    masks = UNSTRUCTURED.masks(scores, sparsity)
    kept = torch.cat([mask.flatten() for mask in masks.values()]).tolist()
    assert kept == [index not in gone for index in range(len(flat))]


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsities=st.lists(SPARSITIES, min_size=2, max_size=2).map(sorted))
def test_masks_are_nested_when_sparsity_grows(scores, sparsities):
    loose, tight = (UNSTRUCTURED.masks(scores, sparsity) for sparsity in sparsities)
    assert not any(bool((tight[layer] & ~loose[layer]).any()) for layer in scores)


@settings(deadline=None, max_examples=60)
@given(scores=scored_layers(), sparsities=st.lists(SPARSITIES, min_size=2, max_size=2).map(sorted))
def test_what_the_previous_round_removed_stays_removed(scores, sparsities):
    before = UNSTRUCTURED.masks({layer: -score for layer, score in scores.items()}, sparsities[0])
    copies = {layer: mask.clone() for layer, mask in before.items()}
    after = UNSTRUCTURED.masks(scores, sparsities[1], inside=before)
    total = sum(score.numel() for score in scores.values())
    assert removed(after) == round(sparsities[1] * total)
    assert not any(bool((after[layer] & ~before[layer]).any()) for layer in scores)
    assert_same_masks(before, copies)


def test_the_memory_format_of_scores_and_previous_masks_does_not_matter():
    scores = {"conv": torch.randint(0, 4, (4, 3, 3, 3), generator=torch.Generator().manual_seed(0)).float()}
    last = {"conv": scores["conv"].to(memory_format=torch.channels_last)}
    first_round = UNSTRUCTURED.masks(scores, 0.3)
    assert_same_masks(UNSTRUCTURED.masks(last, 0.3), first_round)
    previous = {"conv": first_round["conv"].to(memory_format=torch.channels_last)}
    again = UNSTRUCTURED.masks(last, 0.6, inside=previous)
    assert_same_masks(again, UNSTRUCTURED.masks(scores, 0.6, inside=first_round))


def test_a_sparsity_just_below_one_removes_the_rounded_number():
    masks = UNSTRUCTURED.masks({"a": torch.rand(10)}, math.nextafter(1, 0))
    assert removed(masks) == 10


def test_half_a_weight_is_rounded_to_even_as_in_torch():
    scores = {"a": torch.arange(1.0, 6.0)}
    assert removed(UNSTRUCTURED.masks(scores, 0.5)) == 2
    assert removed(UNSTRUCTURED.masks({"a": torch.arange(1.0, 8.0)}, 0.5)) == 4


def test_layers_of_different_precision_share_one_threshold():
    third = torch.tensor([1 / 3, 2.0], dtype=torch.float64)
    scores = {"wide": third, "narrow": third.float(), "half": torch.tensor([0.25, 4.0]).bfloat16()}
    masks = UNSTRUCTURED.masks(scores, 2 / 6)
    assert [mask.tolist() for mask in masks.values()] == [[False, True], [True, True], [False, True]]


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_a_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(OptionError, match=f"out of range: {sparsity}; choose a number from 0 to just below 1"):
        UNSTRUCTURED.masks({"a": torch.rand(4)}, sparsity)


def test_going_back_to_a_lower_sparsity_is_refused():
    scores = {"a": torch.arange(8.0)}
    with pytest.raises(OptionError, match=r"already pruned: 0\.25; ask for at least 0\.5"):
        UNSTRUCTURED.masks(scores, 0.25, inside=UNSTRUCTURED.masks(scores, 0.5))


def test_nan_scores_are_refused_by_layer():
    with pytest.raises(MaskError, match=r"NaN: layer1\.conv"):
        UNSTRUCTURED.masks({"ok": torch.rand(3), "layer1.conv": torch.tensor([1.0, math.nan])}, 0.5)


def test_previous_masks_that_do_not_match_are_refused_by_layer():
    scores = {"a": torch.rand(2, 3)}
    with pytest.raises(MaskError, match="no mask of the previous round: a;"):
        UNSTRUCTURED.masks(scores, 0.5, inside={})
    with pytest.raises(MaskError, match=r"differ in shape: a, \(3, 2\) and \(2, 3\)"):
        UNSTRUCTURED.masks(scores, 0.5, inside={"a": torch.ones(3, 2, dtype=torch.bool)})


def test_no_layers_give_no_masks():
    assert UNSTRUCTURED.masks({}, 0.5) == {}


def test_scores_computed_when_asked_for_give_the_same_masks():
    weights = conv_weights(small_net())
    computed = Computed(weights, lambda layer: weights[layer].detach().abs())
    before = UNSTRUCTURED.masks(sizes(weights), 0.2)
    for inside in (None, before):
        expected = UNSTRUCTURED.masks(sizes(weights), 0.7, inside=inside)
        assert_same_masks(UNSTRUCTURED.masks(computed, 0.7, inside=inside), expected)


def test_any_layer_and_sparsity_will_do_and_nothing_beside_the_layers_is_touched():
    assert (UNSTRUCTURED.name, UNSTRUCTURED.sparsity) == ("unstructured", None)
    assert UNSTRUCTURED.problem("depthwise", (8, 1, 3, 3)) is None
    assert UNSTRUCTURED.layers(("b", "a")) == ("b", "a")
    assert UNSTRUCTURED.coupled({"a": torch.zeros(2, 2, dtype=torch.bool)}) == {}


def test_the_achieved_sparsity_is_the_one_asked_for():
    masks = UNSTRUCTURED.masks({"a": torch.rand(1000), "b": torch.rand(10, 100)}, 0.9)
    assert sparsity_of(masks) == 0.9
