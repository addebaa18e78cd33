"""The table of channels agrees with what open_clip builds at every width, and masks can be read back as channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from opentrans_cli.clip.architecture import build_clip, tower_shapes
from opentrans_cli.clip.channels import (
    ChannelGroup,
    Mask,
    channel_groups,
    channel_mask,
    grouped_axes,
    kept_channels,
    widths,
)
from opentrans_cli.errors import MaskError, OptionError

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
RESNET = {"image_size": 64, "layers": [2, 1, 3, 1], "width": 12, "patch_size": None}
VIT = {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8, "mlp_ratio": 1.5}


def config(vision: dict[str, Any]) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}


def built(vision: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return build_clip(config(vision)).visual


def masks_at(vision: dict[str, Any], width: int, seed: int = 0) -> tuple[dict[str, Mask], dict[str, Mask]]:
    """Masks of randomly chosen channels, and the choice, by group."""
    random = np.random.default_rng(seed)
    groups = channel_groups(config(vision))
    kept = {}
    for group in groups:
        units = random.permutation(group.size // group.unit) < group.kept(width) // group.unit
        kept[group.name] = units.repeat(group.unit)
    shapes = tower_shapes(config(vision))
    masks = {
        name.removesuffix(".weight"): channel_mask(shapes[name], axes, kept)
        for name, axes in grouped_axes(groups).items()
        if len(shapes[name]) > 1 and name.endswith(".weight")
    }
    return masks, kept


@pytest.mark.parametrize(("vision", "key"), [(RESNET, "width"), (VIT, "mlp_ratio")])
def test_at_every_width_the_table_has_the_shapes_of_the_tower_open_clip_builds(vision, key):
    visual = built(vision)
    groups = channel_groups(config(vision))
    assert len(widths(groups)) == (6 if key == "width" else 96)
    for width in widths(groups)[::7] if key == "mlp_ratio" else widths(groups):
        narrow = built({**vision, key: width if key == "width" else width / 64}).state_dict()
        axes = grouped_axes(groups)
        for name, tensor in visual.state_dict().items():
            shape = list(tensor.shape)
            for axis, group in axes.get(name, {}).items():
                assert shape[axis] == group.size
                shape[axis] = group.kept(width)
            assert shape == list(narrow[name].shape), name


def test_nothing_of_a_resnet_is_left_out_but_the_embedding_itself_and_counters():
    outside = set(built(RESNET).state_dict()) - set(grouped_axes(channel_groups(config(RESNET))))
    assert {name for name in outside if not name.endswith("num_batches_tracked")} == {"attnpool.c_proj.bias"}


def test_published_resnets_narrow_in_steps_of_one_head():
    for width in (64, 80, 96, 128):
        vision = {"image_size": 224, "layers": [1, 1, 1, 1], "width": width, "patch_size": None}
        groups = channel_groups(config(vision))
        assert widths(groups) == tuple(range(width, 0, -2))
        assert groups[-1].unit == 64


def test_attention_and_token_width_of_a_vit_stay():
    names = [f"transformer.resblocks.{n}.mlp.{leaf}" for n in (0, 1) for leaf in ("c_fc.weight", "c_fc.bias")]
    names += [f"transformer.resblocks.{n}.mlp.c_proj.weight" for n in (0, 1)]
    assert sorted(grouped_axes(channel_groups(config(VIT)))) == sorted(names)


def test_other_towers_are_refused_by_kind():
    convnext = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
    for vision, kind in ((convnext, "test_convnext"), ({**VIT, "scale_fc": True}, "another ViT")):
        with pytest.raises(OptionError, match=f"ResNet and ViT towers.*{kind}; choose another"):
            channel_groups(config(vision))


@pytest.mark.parametrize("vision", [RESNET, VIT])
def test_channels_are_read_back_from_the_masks_alone(vision):
    groups = channel_groups(config(vision))
    for width in (widths(groups)[0], widths(groups)[2], widths(groups)[-1]):
        masks, kept = masks_at(vision, width)
        found_width, found = kept_channels(groups, masks)
        assert found_width == width
        assert found.keys() == kept.keys() and all(np.array_equal(found[name], kept[name]) for name in kept)


def test_layers_outside_the_table_may_have_full_masks():
    groups = channel_groups(config(VIT))
    masks, _ = masks_at(VIT, 40)
    layer = "transformer.resblocks.0.attn.out_proj"
    assert kept_channels(groups, {**masks, layer: np.ones((64, 64), np.bool_)})[0] == 40
    with pytest.raises(MaskError, match=f"not pruned by whole channels: {layer}"):
        kept_channels(groups, {**masks, layer: np.zeros((64, 64), np.bool_)})


def test_masks_that_are_not_of_channels_are_refused_by_layer():
    groups = channel_groups(config(RESNET))
    masks, _ = masks_at(RESNET, 8)
    for layer in ("conv1", "layer3.1.conv2", "attnpool.k_proj"):
        flat = masks[layer].flatten()
        flat[flat.argmax()] = False
        with pytest.raises(MaskError, match=f"not pruned by whole channels: {layer}; prune with"):
            kept_channels(groups, {**masks, layer: flat.reshape(masks[layer].shape)})
    del masks["layer1.0.conv2"]
    with pytest.raises(MaskError, match=r"no mask of layer1\.0\.conv2"):
        kept_channels(groups, masks)


def remade(kept: dict[str, Mask]) -> dict[str, Mask]:
    """Masks of a choice of channels of the ResNet, whatever their number."""
    masks, _ = masks_at(RESNET, 8)
    axes = grouped_axes(channel_groups(config(RESNET)))
    return {layer: channel_mask(mask.shape, axes[f"{layer}.weight"], kept) for layer, mask in masks.items()}


def test_groups_of_unequal_shares_and_half_heads_are_no_tower():
    groups = channel_groups(config(RESNET))
    _, kept = masks_at(RESNET, 8)
    fewer = kept["layer2"].copy()
    fewer[fewer.argmax()] = False
    with pytest.raises(MaskError, match="narrower tower: layer2 keeps 63 of 96"):
        kept_channels(groups, remade({**kept, "layer2": fewer}))
    torn = np.roll(kept["attnpool"], 32)
    with pytest.raises(MaskError, match="narrower tower: attnpool keeps 256 of 384"):
        kept_channels(groups, remade({**kept, "attnpool": torn}))
    nothing = {group.name: np.zeros(group.size, np.bool_) for group in groups}
    with pytest.raises(MaskError, match="narrower tower: conv1 keeps 0 of 6"):
        kept_channels(groups, remade(nothing))


def test_a_group_keeps_whole_units_in_proportion_to_the_width():
    from fractions import Fraction

    heads = ChannelGroup("attnpool", 512, Fraction(32), (), unit=64)
    assert [width for width in range(1, 17) if heads.fits(width)] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert heads.kept(6) == 192 and not heads.fits(0)
