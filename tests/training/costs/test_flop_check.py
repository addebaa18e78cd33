"""torch's own counter and the formulas agree, for every framework and every way of freezing."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.layers import candidates, locate
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.training.costs.flop_check import torch_macs
from opentrans_cli.training.costs.macs import count_macs
from opentrans_cli.training.costs.paper import FROZEN_LAYERS
from opentrans_cli.training.freezing import freeze_modules

SMALL_DECODER = {"width": 32, "queries": 5, "encoder_layers": 1, "decoder_layers": 1}
OPTIONS = {
    **{"deeplabv3": {}, "deeplabv3, CLIP alone": {"clip_residual": False}},
    **dict.fromkeys(("han", "mask2former", "fcclip"), SMALL_DECODER),
}
RN50 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
}


class Training(nn.Module):
    """What the loss is taken of."""

    def __init__(self, segmentor, masks):
        super().__init__()
        self.segmentor, self.masks = segmentor.train(), masks

    def forward(self, images, text):
        return self.segmentor.queries(images, text) if self.masks else self.segmentor(images, text)


def built(framework, visual, options):
    chosen = FRAMEWORKS.load(framework.partition(",")[0])
    return Training(chosen.build(visual, chosen.options(options)), chosen.masks)


def both(model, *shapes, **arguments):
    """MACs by formula and by torch."""
    layers = count_macs(model, *shapes, **arguments)
    return sum(cost.forward + cost.input_gradient + cost.weight_gradient for cost in layers), torch_macs(
        model, *shapes, **arguments
    )


def in_words():
    return {"arguments": lambda images, embeddings: (images, ClassText.one_each(embeddings))}


def layers_of(model):
    """Layers with a parameter of their own; the parts of packed attention cannot be frozen one by one."""
    names = [layer.name for layer in candidates(model)]
    return [name for name in names if locate(model, name)[1] == slice(None)]


def some(names):
    return random.Random(3).sample(names, len(names) // 2)


PARTS: dict[str, Any] = {
    "nothing": lambda names: [],
    "a frozen beginning": lambda names: names[:6],
    "every other layer": lambda names: names[::2],
    "half of the layers": some,
    "the whole trunk": lambda names: [name for name in names if ".backbone." in name],
    "the whole head": lambda names: [name for name in names if ".backbone." not in name],
    "only one layer learns": lambda names: [name for name in names if not name.endswith("layer3.0.conv2")],
}


@pytest.fixture(scope="module")
def small(tower):
    """A model of a framework around the tiny tower, built once and given with what it trains by itself."""
    models: dict[str, Any] = {}

    def get(framework):
        if framework not in models:
            model = built(framework, tower(), OPTIONS[framework])
            models[framework] = model, [part for part in model.parameters() if part.requires_grad]
        model, trained = models[framework]
        for parameter in trained:
            parameter.requires_grad_(True)
        return model

    return get


# The frameworks of masks differ in their classifiers alone, so the ways are shared out among them.
WAYS = [
    *(("deeplabv3", pattern) for pattern in PARTS),
    *(("deeplabv3, CLIP alone", pattern) for pattern in ("nothing", "half of the layers")),
    *(("han", pattern) for pattern in ("nothing", "half of the layers", "the whole trunk")),
    *(("mask2former", pattern) for pattern in ("every other layer", "only one layer learns")),
    *(("fcclip", pattern) for pattern in ("nothing", "half of the layers")),
]


@pytest.mark.parametrize(("framework", "pattern"), WAYS)
def test_formulas_equal_torch_for_every_framework_and_every_way_of_freezing(small, framework, pattern):
    model = small(framework)
    freeze_modules(model, PARTS[pattern](layers_of(model)))
    formula, counter = both(model, (1, 3, 64, 96), (5, 16), **in_words())
    assert formula == counter > 0


@pytest.mark.parametrize("framework", OPTIONS)
def test_formulas_equal_torch_at_the_size_of_rn50(framework):
    few = OPTIONS[framework] if "deeplabv3" in framework else {"encoder_layers": 1, "decoder_layers": 1}
    with torch.device("meta"):
        model = built(framework, meta_visual(RN50), few)
    freeze_modules(model, [f"segmentor.backbone.{layer}" for layer in FROZEN_LAYERS])
    formula, counter = both(model, (1, 3, 512, 512), (133, 1024), **in_words())
    assert formula == counter > 3e10


def test_two_images_cost_twice_as_much_by_both(small):
    one, two = (both(small("han"), (n, 3, 64, 64), (5, 16), **in_words()) for n in (1, 2))
    assert two == (2 * one[0], 2 * one[1])


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_weight_gradient_of_grouped_convolutions_is_counted_once(groups):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=groups))
    formula, counter = both(model, (2, 3, 9, 7))
    assert formula == counter
    with FlopCounterMode(display=False) as raw:
        model(torch.randn(2, 3, 9, 7)).sum().backward()
    grouped = 2 * 16 * 7 * 5 * 9 * 8 // groups  # forward pass, input and weight gradient cost this
    assert raw.get_total_flops() / 2 == formula + (groups - 1) * grouped


def test_attention_on_its_fast_path_is_counted():
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval().requires_grad_(False)
    formula, counter = both(model, (1, 5, 16))
    assert formula == counter > 0
    assert torch.backends.mha.get_fastpath_enabled()


def test_sampling_and_masking_count_nothing_by_either():
    class Samples(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, images, grid):
            return F.interpolate(F.grid_sample(images * self.scale, grid, align_corners=False), scale_factor=2)

    assert both(Samples(), (1, 3, 8, 8), (1, 4, 4, 2)) == (0, 0)


def test_a_model_that_learns_nothing_costs_its_forward_pass():
    model = nn.Linear(4, 3).requires_grad_(False)
    assert both(model, (2, 4)) == (24, 24)
