"""Frozen means parameters and running statistics, by whole names, whatever mode the model is in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from opentrans_cli.clip.features import stage_features
from opentrans_cli.clip.layers import batchnorm_of, convolutions
from opentrans_cli.clip.prefix import modules_until, outputs
from opentrans_cli.errors import TrainingError
from opentrans_cli.training.freezing import freeze_layers, freeze_modules, state_hash


def some_steps(visual, steps=2):
    optimizer = torch.optim.AdamW([p for p in visual.parameters() if p.requires_grad], lr=0.1)
    for seed in range(steps):
        visual.train()
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        stage_features(visual, images)["layer4"].square().mean().backward()
        optimizer.step()


def freeze(visual, layers):
    return freeze_layers(visual, layers, batchnorm_of={layer: batchnorm_of(visual, layer) for layer in layers})


LAYERS = ("conv2", "layer2.1.conv2", "layer2.0.downsample.0", "layer4.0.conv3")


def test_frozen_layers_and_their_statistics_do_not_move_in_training(tower):
    visual = tower()
    frozen = freeze(visual, LAYERS)
    assert frozen == tuple(
        sorted(
            [*LAYERS, "bn2", "layer2.1.bn2", "layer2.0.downsample.1", "layer4.0.bn3"],
        )
    )
    before = {name: tensor.clone() for name, tensor in visual.state_dict().items()}
    proof = state_hash(visual, frozen)
    some_steps(visual)
    assert state_hash(visual, frozen) == proof
    for name, tensor in visual.state_dict().items():
        if "attnpool" not in name:
            assert torch.equal(tensor, before[name]) == (name.rpartition(".")[0] in frozen), name


def test_neighbours_with_the_same_beginning_stay_free(small_net):
    net = small_net()
    freeze_layers(net, ["backbone.conv1"], batchnorm_of={"backbone.conv1": "backbone.bn1"})
    free = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert "backbone.conv10.weight" in free
    assert "backbone.bn10.weight" in free
    assert "backbone.conv1.weight" not in free


def test_freezing_changes_no_name_and_no_module(tower):
    visual = tower()
    modules, keys = dict(visual.named_modules()), list(visual.state_dict())
    freeze(visual, convolutions(visual))
    assert dict(visual.named_modules()) == modules
    assert list(visual.state_dict()) == keys


def test_a_copy_of_a_frozen_tower_is_frozen(tower):
    visual = tower()
    frozen = freeze(visual, LAYERS)
    twin = copy.deepcopy(visual)
    some_steps(twin)
    assert state_hash(twin, frozen) == state_hash(visual, frozen)


def test_freezing_twice_is_freezing_once(tower):
    visual = tower()
    freeze(visual, LAYERS)
    hooks = len(visual.bn2._forward_pre_hooks)
    freeze(visual, LAYERS)
    assert len(visual.bn2._forward_pre_hooks) == hooks


def test_a_frozen_layer_still_passes_gradients_through(tower):
    visual = tower()
    freeze(visual, ("layer4.0.conv3",))
    stage_features(visual.train(), torch.randn(2, 3, 64, 64))["layer4"].square().mean().backward()
    assert visual.conv1.weight.grad.abs().max() > 0
    assert visual.layer4[0].conv3.weight.grad is None


def test_an_unknown_layer_is_named_and_nothing_is_frozen(tower):
    visual = tower()
    with pytest.raises(TrainingError, match=r"no such layer to freeze: 'layer9'; use the layer names"):
        freeze_layers(visual, ["conv1", "layer9"], batchnorm_of={"conv1": "bn1", "layer9": None})
    assert all(parameter.requires_grad for parameter in visual.parameters())


def test_the_hash_sees_every_bit_of_parameters_and_buffers(tower):
    visual = tower()
    before = state_hash(visual, ["conv2", "bn2"])
    assert state_hash(visual, ["bn2", "conv2", "bn2"]) == before
    visual.bn2.running_var[0] = torch.nextafter(visual.bn2.running_var[0], torch.tensor(9.0))
    changed = state_hash(visual, ["conv2", "bn2"])
    assert changed != before
    visual.bn2.num_batches_tracked += 1
    assert state_hash(visual, ["conv2", "bn2"]) not in (before, changed)


class Attention(nn.Module):
    """Packed attention beside a linear layer, and a BatchNorm inside a block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))

    def forward(self, x):
        return self.block(self.attention(x, x, x, need_weights=False)[0].mean(1))


PARTS = tuple(f"attention.{part}_proj" for part in "qkv")


def train_attention(net, steps=3):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for seed in range(steps):
        optimizer.zero_grad()
        net.train()(torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(seed))).square().mean().backward()
        optimizer.step()


def test_a_packed_projection_is_frozen_by_its_three_parts_and_leaves_the_output_projection_free():
    net = Attention()
    assert freeze_modules(net, PARTS) == tuple(sorted(PARTS))
    before, proof = copy.deepcopy(net.state_dict()), state_hash(net, PARTS)
    train_attention(net)
    assert state_hash(net, PARTS) == proof
    still = {name for name, tensor in net.state_dict().items() if torch.equal(tensor, before[name])}
    assert still == {"attention.in_proj_weight", "attention.in_proj_bias"}


def test_a_part_of_a_packed_projection_is_not_frozen_alone_and_nothing_is():
    net = Attention()
    with pytest.raises(TrainingError, match=r"cannot be frozen alone: 'attention\.[qk]_proj'; freeze its three parts"):
        freeze_modules(net, ["block.0", *PARTS[:2]])
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_the_hash_of_a_part_sees_its_own_rows_alone():
    net = Attention()
    before = [state_hash(net, [part]) for part in PARTS]
    with torch.no_grad():
        net.attention.in_proj_weight[9, 0] += 1  # of k: rows 8 to 15
    after = [state_hash(net, [part]) for part in PARTS]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    with torch.no_grad():
        net.attention.in_proj_bias[16] += 1
    assert state_hash(net, [PARTS[2]]) != after[2]


def test_a_whole_block_is_frozen_with_all_that_is_inside():
    net = Attention()
    freeze_modules(net, ["block"])
    proof = state_hash(net, ["block"])
    train_attention(net)
    assert state_hash(net, ["block"]) == proof
    assert not torch.equal(net.attention.in_proj_weight, Attention().attention.in_proj_weight)


@pytest.mark.parametrize("end", ["stem", "layer2.1", "layer4.0"])
def test_a_frozen_prefix_stays_to_the_bit_and_asks_for_no_gradient(tower, end):
    visual = tower()
    freeze_modules(visual, modules_until(visual, end))
    before = copy.deepcopy(visual.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not outputs(visual.train(), images, end)[-1].requires_grad
    if end != "layer4.0":
        some_steps(visual)
    for name, tensor in visual.state_dict().items():
        if "attnpool" not in name:
            inside = name.rpartition(".")[0] in modules_until(visual, end)
            assert torch.equal(tensor, before[name]) == inside, name
