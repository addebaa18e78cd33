"""Pruned weights become zero, stay zero under optimizers, and are reported when they are not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from opentrans_cli.clip.layers import layer_weight, layer_weights
from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.masking import apply_masks, check_support, hold, prunable_total, sparsity_of
from opentrans_cli.sparsity.patterns.base import pattern_for

LAYERS = ("0", "2.0", "2.1")


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 1, bias=False))
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), block)


def half_masks(net: nn.Module) -> dict[str, torch.Tensor]:
    scores = {layer: weight.abs() for layer, weight in layer_weights(net, LAYERS).items()}
    return pattern_for("unstructured", net).masks(scores, 0.5)


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


every_optimizer = pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.05),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    ],
    ids=["adamw", "sgd with momentum"],
)


@every_optimizer
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


def test_masks_are_held_on_whatever_the_weights_become():
    net = small_net()
    masks = half_masks(net)
    keep = hold(net, masks)
    net.double()
    for layer in LAYERS:
        net.get_submodule(layer).weight = nn.Parameter(torch.ones_like(net.get_submodule(layer).weight))
    keep()
    for layer, mask in masks.items():
        assert torch.equal(net.get_submodule(layer).weight, mask.double())


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


# Tensors beside the layers, and layers inside a packed tensor.


class Normed(nn.Module):
    """A convolution whose BatchNorm and bias belong to its channels, and a packed attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.bn(self.conv(images)).flatten(2).transpose(1, 2)
        out: torch.Tensor = self.attn(tokens, tokens, tokens)[0]
        return out


def channel_masks() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Channel 1 of four goes: its weights as a layer, its bias and its BatchNorm as coupled parameters."""
    kept = torch.tensor([True, False, True, True])
    masks = {"conv": kept[:, None, None, None].expand(4, 3, 3, 3), "attn.k_proj": kept.expand(4, 4)}
    return masks, dict.fromkeys(("conv.bias", "bn.weight", "bn.bias"), kept)


@every_optimizer
def test_coupled_parameters_stay_zero_with_their_layers_and_the_rest_is_trained(optimizer):
    net = Normed()
    net.conv.bias.data.fill_(0.5)
    net.bn.bias.data.fill_(0.5)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    masks, coupled = channel_masks()
    train(net, optimizer(net.parameters()), hold(net, masks, coupled))
    check_support(net, masks)
    for name, kept in coupled.items():
        parameter = net.get_parameter(name)
        assert parameter.requires_grad and not parameter[~kept].any()
        assert (parameter[kept] != before[name][kept]).any()
    assert (net.attn.in_proj_bias != before["attn.in_proj_bias"]).any()


def test_without_holding_coupled_parameters_grow_back():
    net = Normed()
    masks, coupled = channel_masks()
    apply_masks(net, masks, coupled)
    assert not net.bn.bias[1]
    train(net, torch.optim.AdamW(net.parameters(), lr=0.01), hold(net, masks))
    assert net.bn.bias[1]


def test_applying_coupled_parameters_changes_only_what_they_remove():
    net, untouched = Normed(), Normed()
    masks, coupled = channel_masks()
    apply_masks(net, masks, coupled)
    for name, parameter in net.named_parameters():
        original = untouched.get_parameter(name)
        if name in coupled:
            assert torch.equal(parameter, torch.where(coupled[name], original, 0.0))
        elif name == "conv.weight":
            assert torch.equal(parameter, torch.where(masks["conv"], original, 0.0))
        elif name != "attn.in_proj_weight":
            assert torch.equal(parameter, original)


def test_a_part_of_a_packed_attention_is_held_and_its_neighbours_are_not():
    net, untouched = Normed(), Normed()
    masks = {"attn.k_proj": torch.zeros(4, 4, dtype=torch.bool)}
    apply_masks(net, masks)
    assert not net.attn.in_proj_weight[4:8].any()
    for part in ("q_proj", "v_proj", "out_proj"):
        assert torch.equal(layer_weight(net, f"attn.{part}"), layer_weight(untouched, f"attn.{part}"))
    net.attn.in_proj_weight.data[5, 2] = 1e-30
    with pytest.raises(MaskError, match=r"no longer zero: attn\.k_proj;"):
        check_support(net, masks)


@pytest.mark.parametrize(
    ("coupled", "told"),
    [
        ({"bn2.weight": torch.ones(4)}, r"^no parameter to hold: bn2\.weight; use the masks of the same architecture$"),
        ({"bn.running_mean": torch.ones(4)}, r"^no parameter to hold: bn\.running_mean; "),
        ({"bn.gamma": torch.ones(4)}, r"^no parameter to hold: bn\.gamma; "),
        (
            {"bn.weight": torch.ones(1)},
            r"^mask and weight differ in shape: bn\.weight, \(1,\) and \(4,\); use the masks",
        ),
    ],
    ids=["no module", "a buffer", "no parameter", "another shape"],
)
def test_a_coupled_parameter_that_does_not_fit_is_refused_before_anything_changes(coupled, told):
    net, untouched = Normed(), Normed()
    with pytest.raises(MaskError, match=told):
        apply_masks(net, channel_masks()[0], {name: mask.bool() for name, mask in coupled.items()})
    assert all(torch.equal(parameter, untouched.get_parameter(name)) for name, parameter in net.named_parameters())
