"""The prefix of a tower gives its features from a cache as if it had computed them, to whoever asks the tower."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.prefix import block_of, blocks, blocks_until, modules_until, outputs, replay
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import SourceError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText

BLOCKS = ("stem", "layer1.0", "layer2.0", "layer2.1", "layer3.0", "layer4.0")
SMALL = {"width": 32, "queries": 5, "encoder_layers": 1, "decoder_layers": 3}


@pytest.fixture(scope="module")
def visual():
    """Two blocks in the second stage, so that a prefix can end inside a stage and between two."""
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None}
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
    tower = build_clip({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}).visual
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return tower.eval()


def images(batch=2, side=64):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def segmentor(visual, name):
    options = {"width": 32} if name == "deeplabv3" else SMALL
    torch.manual_seed(2)
    return FRAMEWORKS.load(name).build(copy.deepcopy(visual), options).eval()


TEXT = ClassText.one_each(F.normalize(torch.randn(3, 32, generator=torch.Generator().manual_seed(3)), dim=1))


def test_blocks_stand_in_the_order_of_use_and_layers_in_the_block_their_name_begins_with(visual):
    assert blocks(visual) == BLOCKS and blocks_until(visual, "layer2.0") == BLOCKS[:3]
    assert blocks(load_clip("tiny").model.visual) == ("stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0")
    found = {name: block_of(name) for name in ("conv2", "layer2.0.downsample.0", "layer2.1.bn3", "attnpool.c_proj")}
    assert list(found.values()) == ["stem", "layer2.0", "layer2.1", None]


def test_the_modules_of_a_prefix_are_those_whose_tensors_its_outputs_depend_on(visual):
    for end in BLOCKS:
        tower = copy.deepcopy(visual)
        outputs(tower, images(), end)[-1].square().sum().backward()
        used = {name.rpartition(".")[0] for name, weight in tower.named_parameters() if weight.grad is not None}
        assert set(modules_until(tower, end)) == used, end


def test_outputs_are_those_of_the_whole_stages_and_of_the_end(visual):
    assert [tuple(x.shape[1:]) for x in outputs(visual, images(), "layer2.0")] == [(64, 16, 16), (128, 8, 8)]
    assert [tuple(x.shape[1:]) for x in outputs(visual, images(), "layer2.1")] == [(64, 16, 16), (128, 8, 8)]
    assert [tuple(x.shape[1:]) for x in outputs(visual, images(), "stem")] == [(16, 16, 16)]
    assert len(outputs(visual, images(), "layer4.0")) == 4


@pytest.mark.parametrize("name", ["deeplabv3", "han", "fcclip", "mask2former"])
def test_a_segmentor_says_the_same_with_a_replayed_prefix_bit_for_bit(visual, name):
    module = segmentor(visual, name)
    with torch.no_grad():
        plain = module(images(), TEXT)
        for end in BLOCKS:
            features = outputs(module.backbone, images(), end)
            with replay(module.backbone, end, features):
                replayed = module(torch.zeros_like(images()), TEXT)
            assert torch.equal(replayed, plain) and torch.equal(module(images(), TEXT), plain), end


@pytest.mark.parametrize("end", ["stem", "layer2.0"])
def test_gradients_above_a_replayed_prefix_are_the_same_bit_for_bit(visual, end):
    found = []
    for cached in (False, True):
        module = segmentor(visual, "deeplabv3")
        for name in modules_until(module.backbone, end):
            module.backbone.get_submodule(name).requires_grad_(False)
        if cached:
            with replay(module.backbone, end, outputs(module.backbone, images(), end)):
                module(images(), TEXT).square().mean().backward()
        else:
            module(images(), TEXT).square().mean().backward()
        found.append({key: value.grad for key, value in module.named_parameters() if value.grad is not None})
    plain, replayed = found
    assert plain.keys() == replayed.keys()
    assert all(torch.equal(plain[key], replayed[key]) for key in plain)


def test_a_segmentor_called_through_ddp_replays_as_well(visual, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        module = segmentor(visual, "deeplabv3")
        for name in modules_until(module.backbone, "layer2.0"):
            module.backbone.get_submodule(name).requires_grad_(False)
        wrapped = nn.parallel.DistributedDataParallel(module)
        plain = wrapped(images(), TEXT)
        with torch.no_grad():
            features = outputs(module.backbone, images(), "layer2.0")
        with replay(module.backbone, "layer2.0", features):
            replayed = wrapped(torch.zeros_like(images()), TEXT)
        replayed.square().mean().backward()
        assert torch.equal(replayed, plain)
    finally:
        dist.destroy_process_group()


def test_a_replayed_prefix_multiplies_nothing(visual):
    features = outputs(visual, images(), "layer2.1")
    with FlopCounterMode(display=False) as counter, replay(visual, "layer2.1", features):
        visual(images())
    owners = {name.removeprefix("ModifiedResNet.") for name in counter.get_flop_counts()}
    assert "layer3.0.conv1" in owners
    assert not owners & set(modules_until(visual, "layer2.1"))


def test_the_tower_computes_again_after_the_block_and_after_an_error_in_it(visual):
    features = outputs(visual, images(), "layer3.0")
    before = visual(images())
    with pytest.raises(ZeroDivisionError), replay(visual, "layer3.0", features):
        raise ZeroDivisionError
    assert torch.equal(visual(images()), before)
    assert not any("forward" in module.__dict__ for module in visual.modules())


def test_a_forward_that_somebody_else_replaced_comes_back(visual):
    tower = copy.deepcopy(visual)
    mine = tower.conv1.forward
    tower.conv1.forward = mine
    with replay(tower, "stem", outputs(tower, images(), "stem")):
        assert tower.conv1.forward is not mine
    assert tower.conv1.forward is mine


def test_unknown_blocks_and_other_towers_are_refused(visual):
    with pytest.raises(SourceError, match=r"no such block in this tower: 'layer2.7'; choose one of stem, layer1.0"):
        outputs(visual, images(), "layer2.7")
    with pytest.raises(SourceError, match="no such block"), replay(visual, "layer9.0", ()):
        pass
    with pytest.raises(SourceError, match="no ResNet stages"):
        blocks(nn.Sequential())
    with pytest.raises(ValueError, match="shorter"), replay(visual, "layer2.0", outputs(visual, images(), "layer1.0")):
        pass
