"""Pruned weights become zero, stay zero on parameters that are trained, moved, cast or replaced, and are reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from opentrans_cli.clip.layers import layer_weight
from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.masking import (
    Held,
    apply_masks,
    check_support,
    fill,
    first_regrown,
    hold,
)
from opentrans_cli.sparsity.selection import prunable_total, sparsity_of


class Net(nn.Module):
    """A convolution whose BatchNorm and bias belong to its channels, and a packed attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.attn = nn.MultiheadAttention(4, 2, batch_first=True)
        self.conv.bias.data.fill_(0.5)
        self.bn.bias.data.fill_(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.bn(self.conv(images)).flatten(2).transpose(1, 2)
        out: torch.Tensor = self.attn(tokens, tokens, tokens)[0]
        return out


KEPT = torch.tensor([True, False, True, True])
MASKS = {"conv": KEPT[:, None, None, None].expand(4, 3, 3, 3), "attn.k_proj": KEPT.expand(4, 4)}
COUPLED = dict.fromkeys(("conv.bias", "bn.weight", "bn.bias"), KEPT)
"""Channel 1 of four goes: its weights as a layer, its bias and its BatchNorm as coupled parameters."""


def train(net: nn.Module, optimizer: torch.optim.Optimizer, after_step: Callable[[], None]) -> None:
    for _ in range(5):
        optimizer.zero_grad()
        net(torch.randn(2, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        after_step()


def held_conv() -> tuple[nn.Conv2d, Held, torch.Tensor]:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    pruned = torch.rand(6, 4, 3, 3) < 0.5
    return conv, Held("stem", conv, "weight", pruned), pruned


def test_counts_speak_of_prunable_weights_only():
    masks = {"a": np.array([True, False, False]), "b": np.array([[True, True, False, False, False]])}
    assert (prunable_total(masks), sparsity_of(masks)) == (8, 5 / 8)
    assert (prunable_total({}), sparsity_of({})) == (0, 0.0)


def test_applying_masks_changes_only_what_they_remove():
    net, untouched = Net(), Net()
    apply_masks(net, {layer: mask.numpy() for layer, mask in MASKS.items()}, COUPLED)  # arrays or tensors
    check_support(net, MASKS)
    for name, parameter in net.named_parameters():
        mask = COUPLED.get(name, MASKS.get(name.removesuffix(".weight"), torch.tensor(True)))
        if name != "attn.in_proj_weight":
            assert torch.equal(parameter, torch.where(mask, untouched.get_parameter(name), 0.0)), name
    for part in ("q_proj", "k_proj", "v_proj"):
        mask = MASKS.get(f"attn.{part}", torch.tensor(True))
        assert torch.equal(layer_weight(net, f"attn.{part}"), layer_weight(untouched, f"attn.{part}") * mask)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.AdamW(weights, lr=0.01, weight_decay=0.05),
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True),
    ],
    ids=["adamw", "sgd with momentum"],
)
def test_what_is_held_after_every_step_stays_zero_and_the_rest_is_trained(optimizer):
    net = Net()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    train(net, optimizer(net.parameters()), hold(net, MASKS, COUPLED))
    check_support(net, MASKS)
    for name, kept in {"conv.weight": MASKS["conv"], **COUPLED}.items():
        parameter = net.get_parameter(name)
        assert parameter.requires_grad and not parameter[~kept].any()
        assert (parameter[kept] != before[name][kept]).any()
    assert (net.attn.in_proj_bias != before["attn.in_proj_bias"]).any()


def test_what_is_not_held_grows_back_and_is_reported_by_layer():
    net = Net()
    apply_masks(net, MASKS, COUPLED)
    train(net, torch.optim.AdamW(net.parameters(), lr=0.01), hold(net, MASKS))
    assert net.bn.bias[1]
    net = Net()
    train(net, torch.optim.AdamW(net.parameters(), lr=0.01), hold(net, {"attn.k_proj": MASKS["attn.k_proj"]}))
    with pytest.raises(MaskError, match=r"no longer zero: conv; apply the mask again before writing"):
        check_support(net, MASKS)
    apply_masks(net, MASKS)
    net.attn.in_proj_weight.data[5, 1] = 1e-30
    with pytest.raises(MaskError, match=r"no longer zero: attn\.k_proj;"):
        check_support(net, MASKS)


def test_removed_weights_are_zero_whatever_became_of_the_parameter() -> None:
    def load(conv: nn.Conv2d, *, assign: bool) -> None:
        ones = {name: torch.ones_like(tensor) for name, tensor in conv.state_dict().items()}
        conv.load_state_dict(ones, assign=assign)

    for number, change in enumerate(
        (
            lambda conv: None,
            lambda conv: conv.to(torch.float64),
            lambda conv: conv.to(torch.bfloat16),
            lambda conv: conv.to(memory_format=torch.channels_last),
            lambda conv: load(conv, assign=False),
            lambda conv: load(conv, assign=True),
        )
    ):
        conv, held, pruned = held_conv()
        fill([held])
        change(conv)
        before = conv.weight.detach().clone()
        fill([held])
        assert torch.equal(conv.weight.detach(), before.masked_fill(pruned, 0)), number
        assert first_regrown([held]) is None


def test_one_regrown_weight_is_found_and_filled_and_minus_zero_is_none() -> None:
    conv, held, pruned = held_conv()
    other = Held("head", nn.Linear(2, 2), "weight", torch.zeros(2, 2, dtype=torch.bool))
    fill([other, held])
    place = tuple(pruned.nonzero()[7])
    for value in (1e-30, -1.0, math.inf, math.nan):
        conv.weight.data[place] = value
        assert first_regrown([other, held]) == "stem"
        fill([other, held])
        assert first_regrown([other, held]) is None and float(conv.weight.detach()[place]) == 0
    conv.weight.data[pruned] = -0.0
    assert first_regrown([held]) is None and first_regrown([]) is None


def test_kept_weights_keep_their_bits_whatever_they_are_and_removed_ones_lose_all() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        odd = torch.tensor([[math.nan, -math.nan, -0.0, math.inf, -math.inf, 1e-45, -1.0]], dtype=dtype).repeat(2, 1)
        layer = nn.Linear(7, 2, bias=False)
        layer.weight = nn.Parameter(odd.clone())
        fill([Held("layer", layer, "weight", torch.tensor([[False], [True]]).expand(2, 7))])
        bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[odd.element_size()]
        found = layer.weight.detach().view(bits)
        assert torch.equal(found[0], odd[0].view(bits)) and not found[1].any(), dtype


@pytest.fixture
def last_of_three() -> Iterator[None]:
    """This process takes the place of one of three that never hear of each other."""
    # Torch remembers shares by the mesh: no other place can be taken in the same process.
    dist.init_process_group("fake", store=FakeStore(), rank=2, world_size=3)
    yield
    dist.destroy_process_group()


def test_of_a_parameter_that_processes_share_out_each_fills_its_part(last_of_three: None) -> None:
    torch.manual_seed(0)
    for rows in (None, slice(5, 9)):
        layer = nn.Linear(5, 11)
        whole, pruned = layer.weight.detach().clone(), torch.rand(11 if rows is None else 4, 5) < 0.5
        held = Held("layer", layer, "weight", pruned, rows)
        mesh = init_device_mesh("cpu", (3,))
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)], src_data_rank=None))
        own = slice(8, 11)  # behind four and four
        removed = torch.zeros(11, 5, dtype=torch.bool)
        removed[rows or slice(None)] = pruned
        assert first_regrown([held]) == "layer"
        fill([held])
        assert torch.equal(layer.weight.detach().to_local(), whole.masked_fill(removed, 0)[own])
        assert first_regrown([held]) is None
        layer.weight = nn.Parameter(whole)
        fill([held])
        assert torch.equal(layer.weight.detach(), whole.masked_fill(removed, 0))


def test_masks_that_do_not_fit_are_refused_before_anything_changes():
    odd = {"conv": MASKS["conv"], "attn.out_proj": torch.zeros(4, 4, 1, dtype=torch.bool)}
    for masks, coupled, message in (
        *(({name: KEPT}, {}, f"no layer with a weight: {name};") for name in ("3", "conv.7", "bn.x", "")),
        (odd, {}, r"differ in shape: attn\.out_proj, \(4, 4, 1\) and \(4, 4\)"),
        (MASKS, {"bn2.weight": KEPT}, r"^no parameter to hold: bn2\.weight; use the masks of the same architecture$"),
        (MASKS, {"bn.running_mean": KEPT}, r"^no parameter to hold: bn\.running_mean; "),
        (MASKS, {"bn.gamma": KEPT}, r"^no parameter to hold: bn\.gamma; "),
        (MASKS, {"bn.weight": KEPT[:1]}, r"^mask and weight differ in shape: bn\.weight, \(1,\) and \(4,\); use the"),
    ):
        net, untouched = Net(), Net()
        with pytest.raises(MaskError, match=message):
            apply_masks(net, masks, coupled)
        assert all(torch.equal(parameter, untouched.get_parameter(name)) for name, parameter in net.named_parameters())
