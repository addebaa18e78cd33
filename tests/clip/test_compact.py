"""The narrower tower computes what the masked one does, and is one that open_clip builds."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.channels import (
    Mask,
    channel_groups,
    channel_mask,
    compact_tower,
    grouped_axes,
    mlp_ratio,
    widths,
)
from opentrans_cli.clip.layers import layer_weight
from opentrans_cli.errors import TransferError

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
RESNET = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [2, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
VIT = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": TEXT,
    "quick_gelu": True,
}
both = pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])

Masked = tuple[Any, dict[str, Mask]]


@pytest.fixture(scope="module")
def masked() -> Callable[..., Masked]:
    """A tower of random weights, statistics and biases with channels removed at random, and its masks."""

    def make(config: dict[str, Any], width: int, seed: int = 0) -> Masked:
        torch.manual_seed(seed)
        visual: Any = build_clip(config).visual
        for module in visual.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.bias)
        groups, random = channel_groups(config), np.random.default_rng(seed)
        kept = {}
        for group in groups:
            units = random.permutation(group.size // group.unit) < group.kept(width) // group.unit
            kept[group.name] = units.repeat(group.unit)
        masks = {}
        state = visual.state_dict()
        for name, axes in grouped_axes(groups).items():
            if name.endswith(".weight") and state[name].ndim > 1:
                masks[name.removesuffix(".weight")] = channel_mask(state[name].shape, axes, kept)
                state[name].mul_(torch.from_numpy(masks[name.removesuffix(".weight")]))
        return visual, masks

    return make


@both
def test_at_every_width_the_compact_tower_computes_what_the_masked_one_does(config, masked):
    """Biases, BatchNorm and embedding columns of removed channels are random: nothing reads those channels."""
    size = config["vision_cfg"]["image_size"]
    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(7))
    family = widths(channel_groups(config))
    for width in family[:: max(1, len(family) // 4)]:
        visual, masks = masked(config, width, seed=width)
        compact = compact_tower(visual, masks, config)
        with torch.inference_mode():
            torch.testing.assert_close(compact.visual(images), visual(images), atol=1e-5, rtol=1e-5)
        assert compact.width == width and compact.difference < 1e-5
        assert not compact.visual.training


@both
def test_only_the_size_of_the_image_tower_changes_and_json_keeps_it(config, masked):
    width = widths(channel_groups(config))[1]
    before = json.dumps(config)
    compact = compact_tower(*masked(config, width), config)
    assert json.dumps(config) == before
    read = json.loads(json.dumps(compact.model_cfg))
    changed = "width" if config is RESNET else "mlp_ratio"
    rest = {key: value for key, value in read["vision_cfg"].items() if key != changed}
    assert rest == {key: value for key, value in config["vision_cfg"].items() if key != changed}
    assert {key: read[key] for key in read if key != "vision_cfg"} == {
        k: config[k] for k in config if k != "vision_cfg"
    }
    stock = open_clip.model.CLIP(**read).visual
    stock.load_state_dict(compact.visual.state_dict(), strict=True)


def test_the_compact_tower_shares_no_memory_with_the_dense_one(masked):
    visual, masks = masked(RESNET, 6)
    compact = compact_tower(visual, masks, RESNET)
    before = copy.deepcopy(compact.visual.state_dict())
    for tensor in visual.state_dict().values():
        tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in compact.visual.state_dict().items())


def test_masks_of_single_weights_cannot_be_compact(masked):
    visual, masks = masked(RESNET, 6)
    masks["layer1.0.conv2"].flat[masks["layer1.0.conv2"].argmax()] = False
    with pytest.raises(TransferError, match=r"cannot be written compact: .*layer1\.0\.conv2; .*leave out --compact"):
        compact_tower(visual, masks, RESNET)
    with pytest.raises(TransferError, match=r"cannot be written compact: .* no mask of conv1; "):
        compact_tower(visual, {}, RESNET)


def test_a_tower_whose_removed_weights_are_not_zero_is_told_apart(masked):
    visual, masks = masked(RESNET, 6)
    layer_weight(visual, "attnpool.c_proj").masked_fill_(torch.from_numpy(~masks["attnpool.c_proj"]), 1.0)
    with pytest.raises(TransferError, match=r"compact and masked tower disagree: by .*; write it dense"):
        compact_tower(visual, masks, RESNET)


def test_a_tower_that_gives_nan_is_not_called_equal(masked):
    visual, masks = masked(RESNET, 6)
    visual.attnpool.c_proj.bias.data.fill_(torch.nan)
    with pytest.raises(TransferError, match="disagree: by nan"):
        compact_tower(visual, masks, RESNET)


@given(st.integers(1, 2048), st.integers(1, 8192))
def test_open_clip_makes_the_same_number_of_hidden_units_from_the_ratio(width, hidden):
    assert int(width * json.loads(json.dumps(mlp_ratio(hidden, width)))) == hidden
