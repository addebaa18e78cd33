"""Two processes that keep a part of each parameter train as one process that keeps them all."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.sparsity.masking import check_support, hold
from opentrans_cli.training.processes import sharding
from opentrans_cli.training.processes.distributed import World, open_world
from opentrans_cli.training.processes.sharding import local_share, local_tensor, put, whole

STEPS, BATCH = 3, 8


class Net(nn.Module):
    """What real models have: blocks in a sequence, a packed projection, dropouts, a frozen layer, and a number without
    a dimension. Images (B, 3, 8, 8) -> (B, 3).
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2)),
        )
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        cells = self.backbone(images).flatten(2).transpose(1, 2)
        attended = cells + self.attention(cells, cells, cells, need_weights=False)[0]
        scores: Tensor = self.head(self.dropout(attended.mean(1))) * self.scale.exp()
        return scores


def example() -> tuple[Net, dict[str, Tensor], Tensor, Tensor]:
    """A network with a frozen layer, masks of three others, images and what they should give."""
    torch.manual_seed(0)
    net = Net().double().to(memory_format=torch.channels_last)
    net.backbone[0][0].weight.requires_grad_(False)
    random = torch.Generator().manual_seed(1)
    shapes = {"backbone.1.0": (8, 8, 3, 3), "attention.k_proj": (8, 8), "head": (3, 8)}
    masks = {layer: torch.rand(shape, generator=random) < 0.5 for layer, shape in shapes.items()}
    images = torch.randn(STEPS, BATCH, 3, 8, 8, generator=random, dtype=torch.float64)
    return net, masks, images, torch.randn(STEPS, BATCH, 3, generator=random, dtype=torch.float64)


def trained(world: Any, *, optimizer: str, accumulate: int, shard: bool) -> dict[str, Any]:
    """What is left of three steps in this process."""
    net, masks, images, wanted = example()
    before = dict(net.named_parameters())
    if not world.is_main:
        nn.init.zeros_(net.head.weight)  # wrapping gives everybody rank 0's
    keep = hold(net, masks)
    called = world.wrap(net, shard=shard, accumulate=accumulate)
    kinds = {"adamw": lambda p: torch.optim.AdamW(p, lr=1e-2), "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)}
    steps = kinds[optimizer]([parameter for parameter in net.parameters() if parameter.requires_grad])
    keep()
    clean, held = list[bool](), sum(local_tensor(parameter).numel() for parameter in net.parameters())
    for step in range(STEPS):
        net.train()
        steps.zero_grad()
        rows = world.share(np.arange(BATCH), accumulate=accumulate).reshape(accumulate, -1)
        for number, part in enumerate(rows):
            torch.manual_seed(step)
            with world.part(number):
                lost = (called(images[step][part]) - wanted[step][part]).square().sum(1).sum() / BATCH
                (lost * world.size).backward()
        steps.step()
        keep()
        check_support(net, masks)
        clean.append(len(sharded_layers(net)) == shard * len(before))
        clean.append(seen_alone(world, net, images[step]))
    world.unwrap(net)
    state = net.state_dict()
    return {
        "state": state,
        "held": held,
        "clean": all(clean),
        "zero": all(bool((state_of(state, layer)[~mask] == 0).all()) for layer, mask in masks.items()),
        "own": all(parameter is before[name] for name, parameter in net.named_parameters()),
        "layout": net.backbone[1][0].weight.is_contiguous(memory_format=torch.channels_last),
        "plain": traces(net) == traces(example()[0]),
    }


def seen_alone(world: Any, net: nn.Module, images: Tensor) -> bool:
    """Whether the network, looked at by one process alone, is then left as it was."""
    with world.gathered(net), torch.no_grad():
        net.eval()
        for _ in range(3 * world.is_main):
            net(images[:1])
    return True


def sharded_layers(net: nn.Module) -> list[str]:
    return [name for name, parameter in net.named_parameters() if hasattr(parameter, "device_mesh")]


def state_of(state: dict[str, Tensor], layer: str) -> Tensor:
    return state["attention.in_proj_weight"][8:16] if layer == "attention.k_proj" else state[f"{layer}.weight"]


def traces(net: nn.Module) -> list[Any]:
    """Classes, attributes and hooks of every module."""
    return [
        [type(part).__name__, sorted(vars(part)), [key for key, value in vars(part).items() if "hook" in key and value]]
        for part in net.modules()
    ]


def digest(state: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in state.values())).hexdigest()


CASES = {
    f"{optimizer}, {accumulate} parts, {'shards' if shard else 'copies'}": {
        "optimizer": optimizer,
        "accumulate": accumulate,
        "shard": shard,
    }
    for optimizer, accumulate in (("adamw", 2), ("sgd", 1))
    for shard in (False, True)
}


@contextmanager
def small_units() -> Iterator[None]:
    before, sharding.UNIT = sharding.UNIT, 300
    yield
    sharding.UNIT = before


def results() -> dict[str, Any]:
    with open_world("cpu") as world, small_units():
        found = {name: case_results(world, case) for name, case in CASES.items()}
        found["tensors"] = tensor_results(world)
        found["again"] = wrapped_again(world)
        world.barrier()
    return found


def case_results(world: Any, case: dict[str, Any]) -> dict[str, Any]:
    found = trained(world, **case)
    state = found.pop("state")
    alone = trained(World(torch.device("cpu")), **{**case, "shard": False})["state"]
    largest = max(float(tensor.abs().max()) for tensor in alone.values())
    difference = max(float((state[name] - tensor).abs().max()) for name, tensor in alone.items()) / largest
    same = {name: tensor.shape for name, tensor in state.items()} == {n: tensor.shape for n, tensor in alone.items()}
    return found | {"difference": difference, "digest": digest(state), "same": same}


def tensor_results(world: Any) -> dict[str, Any]:
    """What `whole`, `put` and `local_share` make of a parameter with fewer rows than processes have it evenly."""
    net = nn.Sequential(nn.Linear(2, 3))
    world.wrap(net, shard=True)
    weight, full = net[0].weight, torch.arange(6.0).view(3, 2)
    put(weight, full.double())
    found = {
        "whole": whole(weight).tolist(),
        "local": local_tensor(weight).tolist(),
        "share": local_share(full, weight).tolist(),
    }
    try:
        put(weight, torch.zeros(1, 2))
    except ValueError as error:
        found["refused"] = str(error)
    world.unwrap(net)
    return found | {"unwrapped": net[0].weight.tolist(), "requires": net[0].weight.requires_grad}


def wrapped_again(world: Any) -> list[str]:
    """Digests after a module was sharded, frozen in part, and then sharded and copied again."""
    net, _, images, _ = example()
    digests = []
    for shard in (True, True, False):
        called = world.wrap(net, shard=shard)
        with world.gathered(net):  # before any other pass
            net.eval()(images[0][:1])
        steps = torch.optim.SGD([parameter for parameter in net.parameters() if parameter.requires_grad], 0.1)
        called.train()
        torch.manual_seed(0)
        called(images[0][world.share(np.arange(BATCH))]).square().sum().backward()
        steps.step()
        called(images[0][:2])  # a forward pass alone, as before a loss that is not finite
        world.unwrap(net)
        net.head.requires_grad_(False)
        digests.append(digest(copy.deepcopy(net).state_dict()))
    return digests


@pytest.fixture(scope="module")
def both(in_processes):
    return in_processes(results)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_with_the_weights_of_one(both, case):
    for found in both:
        assert found[case]["same"]
        assert found[case]["difference"] < 1e-9
    assert both[0][case]["digest"] == both[1][case]["digest"]


@pytest.mark.parametrize("case", CASES)
def test_pruned_weights_are_zero_in_every_process_after_every_step(both, case):
    for found in both:
        assert found[case]["zero"]
        assert found[case]["clean"]


def test_each_process_keeps_about_half_of_what_is_sharded(both):
    copies, shares = ([found[f"adamw, 2 parts, {kind}"]["held"] for found in both] for kind in ("copies", "shards"))
    assert copies[0] == copies[1] == sum(shares)
    assert max(shares) < 0.6 * copies[0]


@pytest.mark.parametrize("case", CASES)
def test_unwrapping_leaves_the_modules_own_parameters_and_no_trace(both, case):
    for found in both:
        assert found[case]["own"]
        assert found[case]["layout"]
        assert found[case]["plain"]


def test_a_module_can_be_sharded_again_with_fewer_trained_layers(both):
    assert both[0]["again"] == both[1]["again"]
    assert len(set(both[0]["again"])) == 3


def test_a_sharded_tensor_is_cut_by_rows_and_put_together_again(both):
    rows = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    for found in both:
        assert found["tensors"]["whole"] == found["tensors"]["unwrapped"] == rows
        assert found["tensors"]["local"] == found["tensors"]["share"]
        assert found["tensors"]["requires"]
        assert found["tensors"]["refused"] == "shapes differ: (1, 2) into (3, 2)"
    assert [found["tensors"]["local"] for found in both] == [rows[:2], rows[2:]]


def test_a_plain_tensor_is_whole_as_it_is():
    tensor, full = torch.zeros(2, 3), torch.arange(6.0).view(2, 3)
    assert whole(tensor) is tensor
    assert local_share(full, tensor) is full
    put(tensor, full.double())
    assert torch.equal(tensor, full)
    assert local_tensor(tensor).data_ptr() == tensor.data_ptr()
    with pytest.raises(ValueError, match=r"shapes differ: \(3,\) into \(2, 3\)"):
        put(tensor, torch.zeros(3))


def test_a_single_number_may_have_a_dimension_or_none():
    number = torch.zeros(())
    put(number, torch.ones(1))
    assert number == 1
