"""Counted multiplications equal those of torch's own counter and of published figures."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.dense import stage_features
from opentrans_cli.clip.layers import batchnorm_of, convolutions
from opentrans_cli.errors import TrainingError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.deeplabv3 import DEEPLABV3
from opentrans_cli.training.costs.macs import LayerCost, count_macs, forward_macs
from opentrans_cli.training.freezing import freeze_layers

RN50 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}


class Trunk(nn.Module):
    """The convolutions of a tower, without its attention pool."""

    def __init__(self, visual):
        super().__init__()
        visual.attnpool = None
        self.backbone = visual

    def forward(self, images):
        return stage_features(self.backbone, images)["layer4"]


class TextHead(nn.Module):
    """A trunk and products of three kinds: a linear layer, a matrix product, a projection by a bare
    parameter.
    """

    def __init__(self, visual):
        super().__init__()
        self.trunk = Trunk(visual)
        self.linear = nn.Linear(256, 16)
        self.projection = nn.Parameter(torch.randn(16, 16))

    def forward(self, images, text):
        pixels = self.linear(self.trunk(images).flatten(2).transpose(1, 2))
        return F.linear(pixels, self.projection) @ text.T


def measured(model, *inputs):
    """MACs of a forward and a backward pass by torch's counter, which counts two operations per MAC."""
    with FlopCounterMode(display=False) as counter:
        model(*inputs).square().mean().backward()
    return counter.get_total_flops() / 2


class SelfAttention(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, tokens):
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


def counted(layers):
    return sum(layer.forward + layer.input_gradient + layer.weight_gradient for layer in layers)


PATTERNS = {
    "nothing": lambda names: [],
    "a frozen beginning": lambda names: names[:4],
    "a frozen middle": lambda names: names[5:9],
    "a frozen end": lambda names: names[-3:],
    "every other layer": lambda names: names[::2],
    "only one layer learns": lambda names: [name for name in names if name != "layer3.0.conv2"],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_counts_equal_torch_for_every_way_of_freezing(tower, pattern):
    model = Trunk(tower())
    frozen = PATTERNS[pattern](convolutions(model.backbone))
    freeze_layers(model.backbone, frozen, batchnorm_of={n: batchnorm_of(model.backbone, n) for n in frozen})
    layers = count_macs(model, (2, 3, 64, 96))
    assert counted(layers) == measured(model, torch.randn(2, 3, 64, 96))
    for layer in layers:
        name = layer.name.removeprefix("backbone.")
        assert layer.weight_gradient == (0 if name in frozen else layer.forward)


def test_counts_equal_torch_when_only_batchnorms_learn(tower):
    model = Trunk(tower())
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.requires_grad_(False)
    assert counted(count_macs(model, (1, 3, 64, 64))) == measured(model, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("trunk_learns", [True, False])
def test_linear_layers_and_products_with_text_are_counted_by_name(tower, trunk_learns):
    model = TextHead(tower())
    model.trunk.requires_grad_(trunk_learns)
    layers = count_macs(model, (1, 3, 64, 64), (5, 16))
    assert counted(layers) == measured(model, torch.randn(1, 3, 64, 64), torch.randn(5, 16))
    by_name = {layer.name: layer for layer in layers}
    below = 4 * 256 * 16 if trunk_learns else 0
    assert by_name["linear"] == LayerCost("linear", 4 * 256 * 16, below, 4 * 256 * 16)
    assert by_name["projection"] == LayerCost("projection", 4 * 16 * 16, 4 * 16 * 16, 4 * 16 * 16)
    assert by_name[""] == LayerCost("", 4 * 16 * 5, 4 * 16 * 5, 0)


@pytest.mark.parametrize("clip_residual", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_counts_equal_torch_for_a_whole_segmentor(tower, pattern, clip_residual):
    model = DEEPLABV3.build(tower(), {"clip_residual": clip_residual})
    frozen = PATTERNS[pattern](convolutions(model.backbone))
    freeze_layers(model.backbone, frozen, batchnorm_of={n: batchnorm_of(model.backbone, n) for n in frozen})
    text = nn.functional.normalize(torch.randn(5, 16), dim=1)
    layers = count_macs(
        model, (1, 3, 64, 96), (5, 16), arguments=lambda images, text: (images, ClassText.one_each(text))
    )
    assert counted(layers) == measured(model, torch.randn(1, 3, 64, 96), ClassText.one_each(text))
    assert {layer.name: layer.forward for layer in layers}["classifier"] == 16 * 24 * 16 * 5


def test_a_forward_pass_that_runs_is_counted_like_one_that_does_not(tower):
    """With attention as a module too, which torch would compute on a path that shows no products."""
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    for model, shape in ((Trunk(tower()).eval(), (1, 3, 64, 96)), (SelfAttention(attention), (1, 5, 16))):
        with torch.no_grad(), forward_macs(model) as macs:
            model(torch.randn(shape))
        assert sum(macs.values()) > 0
        assert macs == {layer.name: layer.forward for layer in count_macs(model, shape)}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_leaves_the_model_as_it_was(tower):
    model = Trunk(tower()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, (2, 3, 64, 64))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_cost_grows_with_the_number_of_images(tower):
    model = Trunk(tower())
    assert counted(count_macs(model, (6, 3, 64, 64))) == 6 * counted(count_macs(model, (1, 3, 64, 64)))


def test_a_layer_that_is_used_twice_costs_twice():
    shared_layer = nn.Linear(4, 4)
    once, twice = (
        count_macs(shared_layer, (1, 4)),
        count_macs(nn.Sequential(shared_layer, shared_layer), (1, 4)),
    )
    assert [layer.forward for layer in once] == [16]
    assert [layer.forward for layer in twice] == [32]


def test_a_product_without_a_formula_is_refused_not_skipped():
    class Outer(nn.Module):
        def forward(self, x):
            return torch.tensordot(x, x, dims=0)

    with pytest.raises(TrainingError, match=r"tensordot: module 'outer'; add one to cost.py"):
        count_macs(nn.Sequential(OrderedDict(outer=Outer())), (4,))


def test_a_mask_of_a_layer_that_multiplies_nothing_changes_no_cost(tower):
    """A segmentor may keep the attention pool's query projection and never run it."""
    model = Trunk(tower())
    masked = count_macs(model, (1, 3, 64, 64), kept={"backbone.attnpool.q_proj": 0.5})
    assert masked == count_macs(model, (1, 3, 64, 64))


@pytest.mark.parametrize(("size", "expected"), [((512, 512), 28_041_019_392), ((800, 1216), 104_058_470_400)])
def test_rn50_costs_what_the_reference_says(reference: Path, size, expected):
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    with torch.device("meta"):
        model = Trunk(build_clip(RN50).visual)
    layers = count_macs(model, (1, 3, *size))
    assert sum(layer.forward for layer in layers) == expected
    key = f"macs_{size[0]}" if size[0] == size[1] else f"macs_{size[0]}x{size[1]}"
    assert {layer.name.removeprefix("backbone."): layer.forward for layer in layers} == {
        row["name"]: row[key] for row in rows
    }


def test_an_einsum_of_two_costs_the_product_of_its_indices():
    class Masks(nn.Module):
        def forward(self, queries, features):
            return torch.einsum("bqc,bchw->bqhw", queries, features)

    (layer,) = count_macs(Masks(), (2, 5, 3), (2, 3, 4, 6))
    assert layer.forward == 2 * 5 * 3 * 4 * 6


def test_an_einsum_of_three_has_no_formula():
    class Three(nn.Module):
        def forward(self, a):
            return torch.einsum("i,i,i->i", a, a, a)

    with pytest.raises(TrainingError, match="no formula for the cost of einsum"):
        count_macs(Three(), (3,))


def test_a_product_without_a_backward_pass_has_no_gradients():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(4, 4)

        def forward(self, x):
            states = self.project(x)
            with torch.no_grad():
                seen = states @ states.T > 0
            return states * seen.any()

    layers = {layer.name: layer for layer in count_macs(Looks(), (3, 4))}
    assert layers[""] == LayerCost("", 36, 0, 0)
    assert layers["project"] == LayerCost("project", 48, 0, 48)
