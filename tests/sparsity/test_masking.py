"""Pruned weights become zero, stay zero under optimizers, and are reported when they are not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.importance import magnitude
from opentrans_cli.sparsity.masking import apply_masks, check_support, hold, prunable_total, sparsity_of
from opentrans_cli.sparsity.patterns.unstructured import unstructured_masks

LAYERS = ("0", "2.0", "2.1")


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1, bias=False))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), block)


def half_masks(net: nn.Module) -> dict[str, torch.Tensor]:
    return unstructured_masks(magnitude({layer: net.get_submodule(layer).weight for layer in LAYERS}), 0.5)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, after_step: Callable[[], None]) -> None:
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        after_step()


def test_counts_speak_of_prunable_weights_only():
    masks = {"a": torch.tensor([True, False, False]), "b": torch.tensor([[True, True, False, False, False]])}
    assert prunable_total(masks) == 8
    assert sparsity_of(masks) == 5 / 8
    assert (prunable_total({}), sparsity_of({})) == (0, 0.0)


def test_applying_masks_zeroes_removed_weights_and_changes_nothing_else():
    net, untouched = small_net(), small_net()
    masks = half_masks(net)
    apply_masks(net, masks)
    for layer in LAYERS:
        weight, original = net.get_submodule(layer).weight, untouched.get_submodule(layer).weight
        assert torch.equal(weight, torch.where(masks[layer], original, 0.0))
    assert torch.equal(net[0].bias, untouched[0].bias)
    check_support(net, masks)


def test_applying_masks_also_clears_nan_and_infinity():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    net[0].weight.data[:] = torch.tensor([math.nan, 3.0]).view(2, 1, 1, 1)
    masks = {"0": torch.tensor([False, True]).view(2, 1, 1, 1)}
    with pytest.raises(MaskError):
        check_support(net, masks)
    apply_masks(net, masks)
    assert net[0].weight.flatten().tolist() == [0.0, 3.0]


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.05),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    ],
    ids=["adamw", "sgd with momentum"],
)
def test_pruned_weights_stay_zero_when_held_after_every_step(optimizer):
    net = small_net()
    before = {layer: net.get_submodule(layer).weight.detach().clone() for layer in LAYERS}
    masks = half_masks(net)
    train(net, optimizer(net.parameters()), hold(net, masks))
    check_support(net, masks)
    for layer in LAYERS:
        weight = net.get_submodule(layer).weight.detach()
        assert not weight[~masks[layer]].any() and weight.requires_grad is False
        assert (weight[masks[layer]] != before[layer][masks[layer]]).any()
        assert net.get_submodule(layer).weight.requires_grad


def test_weights_that_grew_back_are_reported_by_layer():
    net = small_net()
    masks = half_masks(net)
    apply_masks(net, masks)
    train(net, torch.optim.AdamW(net.parameters(), lr=0.01), lambda: None)
    with pytest.raises(MaskError, match=r"no longer zero: 0; apply the mask again before writing"):
        check_support(net, masks)


def test_a_kept_weight_may_be_zero():
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].weight.data.zero_()
    check_support(net, {"0": torch.ones(2, 2, dtype=torch.bool)})


@pytest.mark.parametrize("layer", ["3", "2.7", "1", ""])
def test_a_mask_without_a_layer_is_refused(layer):
    with pytest.raises(MaskError, match=f"no layer with a weight: {layer};"):
        apply_masks(small_net(), {layer: torch.ones(1, dtype=torch.bool)})


def test_a_mask_of_another_shape_is_refused_before_anything_changes():
    net, untouched = small_net(), small_net()
    masks = {"0": torch.zeros(4, 3, 3, 3, dtype=torch.bool), "2.0": torch.zeros(4, 4, 1, 1, dtype=torch.bool)}
    with pytest.raises(MaskError, match=r"differ in shape: 2\.0, \(4, 4, 1, 1\) and \(4, 4, 3, 3\)"):
        apply_masks(net, masks)
    assert torch.equal(net[0].weight, untouched[0].weight)
