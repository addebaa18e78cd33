"""The table of channels agrees with what open_clip builds at every width, and masks can be read back as channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.channels import (
    ChannelGroup,
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


def built(vision: dict[str, Any]) -> Any:
    with torch.device("meta"):
        return build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).visual


def masks_at(visual: nn.Module, width: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Masks of randomly chosen channels, and the choice, by group."""
    torch.manual_seed(seed)
    groups = channel_groups(visual)
    kept = {}
    for group in groups:
        chosen = torch.randperm(group.size // group.unit)[: group.kept(width) // group.unit]
        kept[group.name] = (
            torch.zeros(group.size // group.unit, dtype=torch.bool)
            .index_fill(0, chosen, True)
            .repeat_interleave(group.unit)
        )
    state = visual.state_dict()
    masks = {
        name.removesuffix(".weight"): channel_mask(state[name].shape, axes, kept)
        for name, axes in grouped_axes(groups).items()
        if state[name].ndim > 1 and name.endswith(".weight")
    }
    return masks, kept


@pytest.mark.parametrize(("vision", "key"), [(RESNET, "width"), (VIT, "mlp_ratio")])
def test_at_every_width_the_table_has_the_shapes_of_the_tower_open_clip_builds(vision, key):
    visual = built(vision)
    groups = channel_groups(visual)
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
    visual = built(RESNET)
    outside = set(visual.state_dict()) - set(grouped_axes(channel_groups(visual)))
    assert {name for name in outside if not name.endswith("num_batches_tracked")} == {"attnpool.c_proj.bias"}


def test_published_resnets_narrow_in_steps_of_one_head():
    for width in (64, 80, 96, 128):
        visual = built({"image_size": 224, "layers": [1, 1, 1, 1], "width": width, "patch_size": None})
        groups = channel_groups(visual)
        assert widths(groups) == tuple(range(width, 0, -2))
        assert groups[-1].unit == 64


def test_attention_and_token_width_of_a_vit_stay():
    visual = built(VIT)
    names = [f"transformer.resblocks.{n}.mlp.{leaf}" for n in (0, 1) for leaf in ("c_fc.weight", "c_fc.bias")]
    names += [f"transformer.resblocks.{n}.mlp.c_proj.weight" for n in (0, 1)]
    assert sorted(grouped_axes(channel_groups(visual))) == sorted(names)


def test_other_towers_are_refused_by_kind():
    convnext = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 32}
    for visual in (built(convnext), built({**VIT, "scale_fc": True}), nn.Linear(2, 2)):
        with pytest.raises(OptionError, match=f"ResNet and ViT towers.*{type(visual).__name__}; choose another"):
            channel_groups(visual)


@pytest.mark.parametrize("vision", [RESNET, VIT])
def test_channels_are_read_back_from_the_masks_alone(vision):
    visual = built(vision)
    groups = channel_groups(visual)
    for width in (widths(groups)[0], widths(groups)[2], widths(groups)[-1]):
        masks, kept = masks_at(visual, width)
        found_width, found = kept_channels(groups, masks)
        assert found_width == width
        assert found.keys() == kept.keys() and all(torch.equal(found[name], kept[name]) for name in kept)


def test_layers_outside_the_table_may_have_full_masks():
    visual = built(VIT)
    masks, _ = masks_at(visual, 40)
    layer = "transformer.resblocks.0.attn.out_proj"
    assert kept_channels(channel_groups(visual), {**masks, layer: torch.ones(64, 64, dtype=torch.bool)})[0] == 40
    with pytest.raises(MaskError, match=f"not pruned by whole channels: {layer}"):
        kept_channels(channel_groups(visual), {**masks, layer: torch.zeros(64, 64, dtype=torch.bool)})


def test_masks_that_are_not_of_channels_are_refused_by_layer():
    visual = built(RESNET)
    groups = channel_groups(visual)
    masks, _ = masks_at(visual, 8)
    for layer in ("conv1", "layer3.1.conv2", "attnpool.k_proj"):
        flat = masks[layer].flatten().clone()
        flat[int(flat.nonzero()[0])] = False
        with pytest.raises(MaskError, match=f"not pruned by whole channels: {layer}; prune with"):
            kept_channels(groups, {**masks, layer: flat.reshape(masks[layer].shape)})
    del masks["layer1.0.conv2"]
    with pytest.raises(MaskError, match=r"no mask of layer1\.0\.conv2"):
        kept_channels(groups, masks)


def remade(visual: nn.Module, kept: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks of a choice of channels, whatever their number."""
    masks, _ = masks_at(visual, 8)
    axes = grouped_axes(channel_groups(visual))
    return {layer: channel_mask(mask.shape, axes[f"{layer}.weight"], kept) for layer, mask in masks.items()}


def test_groups_of_unequal_shares_and_half_heads_are_no_tower():
    visual = built(RESNET)
    groups = channel_groups(visual)
    _, kept = masks_at(visual, 8)
    fewer = kept["layer2"].clone()
    fewer[int(fewer.nonzero()[0])] = False
    with pytest.raises(MaskError, match="narrower tower: layer2 keeps 63 of 96"):
        kept_channels(groups, remade(visual, {**kept, "layer2": fewer}))
    torn = kept["attnpool"].roll(32)
    with pytest.raises(MaskError, match="narrower tower: attnpool keeps 256 of 384"):
        kept_channels(groups, remade(visual, {**kept, "attnpool": torn}))
    nothing = {group.name: torch.zeros(group.size, dtype=torch.bool) for group in groups}
    with pytest.raises(MaskError, match="narrower tower: conv1 keeps 0 of 6"):
        kept_channels(groups, remade(visual, nothing))


def test_a_group_keeps_whole_units_in_proportion_to_the_width():
    from fractions import Fraction

    heads = ChannelGroup("attnpool", 512, Fraction(32), (), unit=64)
    assert [width for width in range(1, 17) if heads.fits(width)] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert heads.kept(6) == 192 and not heads.fits(0)
