"""Counted multiplications equal those of torch's own counter and of published figures, attention among them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import stage_features
from opentrans_cli.clip.layers import batchnorm_of, candidates, convolutions
from opentrans_cli.errors import TrainingError
from opentrans_cli.training.costs.flop_check import torch_macs
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


class SelfAttention(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, tokens):
        return self.attention(tokens, tokens, tokens, need_weights=False)[0]


TRUNK_PATTERNS = {
    "nothing": lambda names: [],
    "a frozen beginning": lambda names: names[:4],
    "a frozen middle": lambda names: names[5:9],
    "a frozen end": lambda names: names[-3:],
    "every other layer": lambda names: names[::2],
    "only one layer learns": lambda names: [name for name in names if name != "layer3.0.conv2"],
}


@pytest.mark.parametrize("pattern", TRUNK_PATTERNS)
def test_counts_equal_torch_for_every_way_of_freezing(tower, pattern):
    model = Trunk(tower())
    frozen = TRUNK_PATTERNS[pattern](convolutions(model.backbone))
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


def test_a_forward_pass_that_runs_is_counted_like_one_that_does_not(tower):
    """With attention as a module too, which torch would compute on a path that shows no products."""
    torch.backends.mha.set_fastpath_enabled(True)
    attention = nn.MultiheadAttention(16, 2, batch_first=True).eval()
    for model, shape in ((Trunk(tower()).eval(), (1, 3, 64, 96)), (SelfAttention(attention), (1, 5, 16))):
        with torch.no_grad(), forward_macs(model) as macs:
            model(torch.randn(shape))
        assert sum(macs.values()) > 0
        assert macs == {layer.name: layer.forward for layer in count_macs(model, shape)}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


def test_counting_by_formula_or_by_torch_leaves_the_model_as_it_was(tower):
    model = Trunk(tower()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_macs(model, (2, 3, 64, 64))
    torch_macs(model, (2, 3, 64, 64))
    assert all(parameter.grad is None for parameter in model.parameters())
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

    with pytest.raises(TrainingError, match=r"tensordot: module 'outer'; add one to macs.py"):
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


TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet with its attention pool": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None},
    "vit with an attentional pooler": {
        "image_size": 16,
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_queries": 3,
        "attn_pooler_heads": 2,
    },
}


@pytest.fixture(autouse=True)
def _plain_attention() -> Iterator[None]:
    """torch's counter sees nothing of the fast path, and a fused kernel multiplies more in its backward pass."""
    torch.backends.mha.set_fastpath_enabled(False)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.backends.mha.set_fastpath_enabled(True)


def tower_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    visual: Any = build_clip({"embed_dim": 16, "vision_cfg": TOWERS[kind], "text_cfg": TEXT}).visual
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3: no gradient gets through
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return visual


def measured(model: nn.Module, *inputs: Tensor) -> float:
    """MACs of a forward and a backward pass by torch's counter, which counts two operations per MAC."""
    with FlopCounterMode(display=False) as counter:
        result = model(*inputs)
        if result.requires_grad:
            result.square().mean().backward()
    return counter.get_total_flops() / 2


def counted(layers: tuple[LayerCost, ...]) -> int:
    return sum(layer.forward + layer.input_gradient + layer.weight_gradient for layer in layers)


def only(part: str) -> Callable[[str], bool]:
    return lambda name: part in name


ATTENTION_PATTERNS: dict[str, Callable[[str], bool]] = {
    "nothing": lambda name: False,
    "everything": lambda name: True,
    "weights": only("weight"),
    "biases and norms": lambda name: "bias" in name or "ln" in name or "bn" in name,
    "attention": only("attn"),
    "projections into attention": lambda name: "in_proj" in name or "q_proj" in name or "v_proj" in name,
    "all but the last projection": lambda name: not name.endswith(("out_proj.weight", "c_proj.weight")),
    "the beginning": lambda name: not name.startswith(("transformer.resblocks.1", "layer4", "attnpool", "attn_pool")),
}


@pytest.mark.parametrize("pattern", ATTENTION_PATTERNS)
@pytest.mark.parametrize("kind", TOWERS)
def test_counts_of_towers_equal_torch_for_every_way_of_freezing(kind: str, pattern: str) -> None:
    model = tower_of(kind)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not ATTENTION_PATTERNS[pattern](name))
    size = TOWERS[kind]["image_size"]
    layers = count_macs(model, (2, 3, size, size))
    assert counted(layers) == measured(model, torch.randn(2, 3, size, size))


@pytest.mark.parametrize("kind", ["vit", "resnet with its attention pool"])
def test_every_prunable_layer_has_a_cost_of_its_own(kind: str) -> None:
    model, size = tower_of(kind), TOWERS[kind]["image_size"]
    costs = {layer.name: layer for layer in count_macs(model, (1, 3, size, size))}
    for candidate in candidates(model):
        assert costs[candidate.name].forward == costs[candidate.name].weight_gradient > 0


def test_packed_projections_cost_a_third_each() -> None:
    costs = {layer.name: layer for layer in count_macs(tower_of("vit"), (1, 3, 16, 16))}
    tokens, width = 5, 32
    attention = "transformer.resblocks.0.attn"
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        macs = tokens * width * width
        assert costs[f"{attention}.{part}"] == LayerCost(f"{attention}.{part}", macs, macs, macs)
    products = 2 * tokens * tokens * width
    assert costs[attention] == LayerCost(attention, products, 2 * products, 0)


PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
FROZEN = [(), ("in_proj_weight", "k_proj_weight"), ("q_proj_weight", "in_proj_bias"), PROJECTIONS]


class Bare(nn.Module):
    """Attention between two inputs of different lengths and widths."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, **options)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return self.attend(query, key, key, need_weights=self.training)[0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({}, (6, 3, 8)),
        ({"kdim": 4, "vdim": 4}, (6, 3, 4)),
        ({"add_bias_kv": True}, (6, 3, 8)),
        ({"add_zero_attn": True, "bias": False}, (6, 3, 8)),
        ({"batch_first": True}, (5, 6, 8)),
    ],
)
@pytest.mark.parametrize("frozen", FROZEN)
def test_counts_equal_torch_for_attention_of_every_kind(
    options: dict[str, Any], key: tuple[int, ...], training: bool, frozen: tuple[str, ...]
) -> None:
    model = Bare(**options).train(training)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removeprefix("attend.") not in frozen)
    query = (5, 3, 8)
    layers = count_macs(model, query, key)
    assert counted(layers) == measured(model, torch.randn(query), torch.randn(key))
    assert [layer.name for layer in layers] == [
        "attend.q_proj",
        "attend.k_proj",
        "attend.v_proj",
        "attend",
        "attend.out_proj",
    ]


class Fused(nn.Module):
    """Attention as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.mask = nn.Linear(8, 24), nn.Parameter(torch.zeros(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)


@pytest.mark.parametrize("frozen", [(), ("project.weight",), ("project.weight", "project.bias")])
def test_fused_attention_is_counted_under_the_module_that_asks_for_it(frozen: tuple[str, ...]) -> None:
    model = nn.Sequential(Fused())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.removeprefix("0.") not in frozen)
    layers = count_macs(model, (2, 5, 8))
    assert counted(layers) == measured(model, torch.randn(2, 5, 8))
    assert [layer.name for layer in layers] == ["0.project", "0"]
    assert layers[1].forward == 2 * 2 * 2 * 5 * 5 * 4


def test_counting_needs_no_gradient_at_all() -> None:
    model = tower_of("vit").requires_grad_(False)
    layers = count_macs(model, (1, 3, 16, 16))
    assert counted(layers) == sum(layer.forward for layer in layers) == measured(model, torch.randn(1, 3, 16, 16))
