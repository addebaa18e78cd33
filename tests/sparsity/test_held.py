"""Masks stay on parameters that move, are cast, are laid out anew or are replaced."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from opentrans_cli.sparsity.masking import Held, fill, first_regrown


def held_conv() -> tuple[nn.Conv2d, Held, torch.Tensor]:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3)
    pruned = torch.rand(6, 4, 3, 3) < 0.5
    return conv, Held("stem", conv, "weight", pruned), pruned


def load(conv: nn.Conv2d, *, assign: bool) -> None:
    conv.load_state_dict({name: torch.ones_like(tensor) for name, tensor in conv.state_dict().items()}, assign=assign)


@pytest.mark.parametrize(
    "change",
    [
        lambda conv: None,
        lambda conv: conv.to(torch.float64),
        lambda conv: conv.to(torch.bfloat16),
        lambda conv: conv.to(memory_format=torch.channels_last),
        lambda conv: load(conv, assign=False),
        lambda conv: load(conv, assign=True),
    ],
    ids=["as it is", "float64", "bfloat16", "channels last", "loaded", "replaced"],
)
def test_removed_weights_are_zero_whatever_became_of_the_parameter(change) -> None:
    conv, held, pruned = held_conv()
    fill([held])
    change(conv)
    before = conv.weight.detach().clone()
    fill([held])
    assert torch.equal(conv.weight.detach(), before.masked_fill(pruned, 0))
    assert first_regrown([held]) is None


@pytest.mark.parametrize("value", [1e-30, -1.0, math.inf, math.nan])
def test_one_regrown_weight_is_found_and_filled(value: float) -> None:
    conv, held, pruned = held_conv()
    other = Held("head", nn.Linear(2, 2), "weight", torch.zeros(2, 2, dtype=torch.bool))
    fill([other, held])
    place = tuple(pruned.nonzero()[7])
    conv.weight.data[place] = value
    assert first_regrown([other, held]) == "stem"
    fill([other, held])
    assert first_regrown([other, held]) is None and float(conv.weight.detach()[place]) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_kept_weights_keep_their_bits_whatever_they_are_and_removed_ones_lose_all(dtype: torch.dtype) -> None:
    odd = torch.tensor([[math.nan, -math.nan, -0.0, math.inf, -math.inf, 1e-45, -1.0]], dtype=dtype).repeat(2, 1)
    layer = nn.Linear(7, 2, bias=False)
    layer.weight = nn.Parameter(odd.clone())
    fill([Held("layer", layer, "weight", torch.tensor([[False], [True]]).expand(2, 7))])
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[odd.element_size()]
    found = layer.weight.detach().view(bits)
    assert torch.equal(found[0], odd[0].view(bits)) and not found[1].any()


def test_minus_zero_has_not_regrown_and_nothing_held_is_nothing_regrown() -> None:
    conv, held, pruned = held_conv()
    conv.weight.data[pruned] = -0.0
    assert first_regrown([held]) is None and first_regrown([]) is None


def test_of_a_packed_parameter_only_the_rows_are_touched() -> None:
    attention = nn.MultiheadAttention(4, 1)
    before = attention.in_proj_weight.detach().clone()
    fill([Held("k_proj", attention, "in_proj_weight", torch.ones(4, 4, dtype=torch.bool), slice(4, 8))])
    after = attention.in_proj_weight.detach()
    assert not after[4:8].any() and torch.equal(after[:4], before[:4]) and torch.equal(after[8:], before[8:])


@pytest.fixture
def last_of_three() -> Iterator[None]:
    """This process takes the place of one of three that never hear of each other."""
    # Torch remembers shares by the mesh: no other place can be taken in the same process.
    dist.init_process_group("fake", store=FakeStore(), rank=2, world_size=3)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("rows", [None, slice(5, 9)], ids=["all rows", "some rows"])
def test_of_a_parameter_that_processes_share_out_each_fills_its_part(last_of_three: None, rows: slice | None) -> None:
    torch.manual_seed(0)
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
