"""Attention costs what torch's own counter says, by the names of its layers, for every way of freezing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import candidates
from opentrans_cli.training.costs.macs import LayerCost, count_macs

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


def tower(kind: str) -> nn.Module:
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


PATTERNS: dict[str, Callable[[str], bool]] = {
    "nothing": lambda name: False,
    "everything": lambda name: True,
    "weights": only("weight"),
    "biases and norms": lambda name: "bias" in name or "ln" in name or "bn" in name,
    "attention": only("attn"),
    "projections into attention": lambda name: "in_proj" in name or "q_proj" in name or "v_proj" in name,
    "all but the last projection": lambda name: not name.endswith(("out_proj.weight", "c_proj.weight")),
    "the beginning": lambda name: not name.startswith(("transformer.resblocks.1", "layer4", "attnpool", "attn_pool")),
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", TOWERS)
def test_counts_equal_torch_for_every_way_of_freezing(kind: str, pattern: str) -> None:
    model = tower(kind)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not PATTERNS[pattern](name))
    size = TOWERS[kind]["image_size"]
    layers = count_macs(model, (2, 3, size, size))
    assert counted(layers) == measured(model, torch.randn(2, 3, size, size))


@pytest.mark.parametrize("kind", ["vit", "resnet with its attention pool"])
def test_every_prunable_layer_has_a_cost_of_its_own(kind: str) -> None:
    model, size = tower(kind), TOWERS[kind]["image_size"]
    costs = {layer.name: layer for layer in count_macs(model, (1, 3, size, size))}
    for candidate in candidates(model):
        assert costs[candidate.name].forward == costs[candidate.name].weight_gradient > 0


def test_packed_projections_cost_a_third_each() -> None:
    costs = {layer.name: layer for layer in count_macs(tower("vit"), (1, 3, 16, 16))}
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
    model = tower("vit").requires_grad_(False)
    layers = count_macs(model, (1, 3, 16, 16))
    assert counted(layers) == sum(layer.forward for layer in layers) == measured(model, torch.randn(1, 3, 16, 16))
