"""What can be pruned in real towers, built without memory, and how packed attention is taken apart and joined."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from opentrans_cli.clip.architecture import build_clip, build_visual
from opentrans_cli.clip.layers import (
    PARTS,
    arrays,
    candidates,
    choose_layers,
    convolutions,
    join_packed,
    layer_gradient,
    layer_weight,
    layer_weights,
    locate,
    prunable_layers,
    split_packed,
    tensors,
    tower_candidates,
    whole_projections,
)
from opentrans_cli.errors import OptionError, SourceError

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
VIT = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}
COCA = VIT | {"attentional_pool": True, "attn_pooler_heads": 4}  # its pooler has keys wider than its queries


@cache
def on_meta(name: str) -> Any:
    """The image tower of an open_clip configuration, with shapes and no values."""
    config = open_clip.get_model_config(name)
    assert config is not None
    parts = {"embed_dim": config["embed_dim"], "vision_cfg": config["vision_cfg"], "text_cfg": TEXT}
    with torch.device("meta"):
        return build_clip(parts).visual


def built(vision: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build_clip({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}).visual


def left_out(visual: nn.Module) -> dict[str, str]:
    return {candidate.name: candidate.reason for candidate in candidates(visual) if candidate.reason is not None}


# Towers as they are published.


def test_convolutions_of_rn50_are_those_of_the_reference(reference):
    listed = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    visual = on_meta("RN50")
    assert list(convolutions(visual)) == [layer["name"] for layer in listed]
    shapes = {candidate.name: list(candidate.shape) for candidate in candidates(visual)}
    assert all(shapes[layer["name"]] == layer["shape"] for layer in listed)
    assert list(prunable_layers(visual)) == [layer["name"] for layer in listed if layer["name"] != "conv1"]


@pytest.mark.parametrize(
    ("name", "found", "pruned", "weights"),
    [
        ("RN50", 59, 54, 23_473_152),
        ("RN50x4", 89, 84, 65_508_800),
        # Blocks of 4 E^2 in the attention and 2 * 4 E^2 in the MLP.
        ("ViT-B-32", 12 * 6 + 1, 12 * 6, 12 * 12 * 768**2),
        ("ViT-L-14", 24 * 6 + 1, 24 * 6, 24 * 12 * 1024**2),
        # Blocks of a depthwise 7 x 7 and two linear layers E x 4E; between stages a 2 x 2 convolution.
        (
            "convnext_base",
            2 + 3 + 3 * 36,
            3 + 3 * 36,
            sum(n * (49 * e + 8 * e**2) for n, e in ((3, 128), (3, 256), (27, 512), (3, 1024)))
            + sum(4 * e * 2 * e for e in (128, 256, 512)),
        ),
    ],
)
def test_counts_of_published_towers(name, found, pruned, weights):
    every = candidates(on_meta(name))
    chosen = [candidate for candidate in every if candidate.reason is None]
    assert (len(every), len(chosen), sum(candidate.total for candidate in chosen)) == (found, pruned, weights)


@pytest.mark.parametrize(
    "name", ["RN50", "ViT-B-32", "coca_ViT-B-32", "convnext_base", "EVA02-B-16", "ViT-B-16-SigLIP"]
)
def test_layers_are_told_by_the_names_and_shapes_of_a_towers_tensors_as_by_its_modules(name):
    visual = on_meta(name)
    shapes = {name: tuple(tensor.shape) for name, tensor in visual.state_dict().items()}
    assert tower_candidates(shapes) == candidates(visual)
    apart = {name: tuple(tensor.shape) for name, tensor in split_packed(visual.state_dict()).items()}
    assert tower_candidates(apart) == candidates(visual)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("RN50", {"attnpool.positional_embedding"}),
        ("ViT-B-32", {"positional_embedding", "proj"}),
        ("convnext_base", set()),
    ],
)
def test_every_weight_matrix_is_a_candidate_once(name, beside):
    visual = on_meta(name)
    every = candidates(visual)
    matrices = {name: p.numel() for name, p in visual.named_parameters() if p.ndim >= 2 and name not in beside}
    places = [locate(visual, candidate.name) for candidate in every]
    assert {parameter for parameter, _ in places} == set(matrices)
    assert sum(candidate.total for candidate in every) == sum(matrices.values())
    assert len({(parameter, rows.start) for parameter, rows in places}) == len(every)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("RN50", {"conv1": "input layer"} | {f"attnpool.{part}_proj": "output head" for part in "kqvc"}),
        ("ViT-B-32", {"conv1": "input layer"}),
        ("convnext_base", {"trunk.stem.0": "input layer", "head.proj": "output head"}),
        ("EVA02-B-16", {"trunk.patch_embed.proj": "input layer", "trunk.head": "output head"}),
        (
            "ViT-B-16-SigLIP",
            {"trunk.patch_embed.proj": "input layer"}
            | {f"trunk.attn_pool.{part}": "output head" for part in ("q", "kv", "proj", "mlp.fc1", "mlp.fc2")},
        ),
        ("coca_ViT-B-32", {"conv1": "input layer", "attn_pool.attn.out_proj": "output head"}),
    ],
)
def test_the_input_layer_and_the_output_head_are_left_out_with_their_reason(name, reasons):
    visual = on_meta(name)
    assert left_out(visual) == reasons
    assert not set(reasons) & set(prunable_layers(visual))


@pytest.mark.parametrize(("name", "blocks", "width"), [("ViT-B-32", 12, 768), ("ViT-L-14", 24, 1024)])
def test_packed_attention_is_three_square_layers(name, blocks, width):
    parts = [candidate for candidate in candidates(on_meta(name)) if candidate.name.split(".")[-1] in PARTS]
    assert [candidate.name for candidate in parts] == [
        f"transformer.resblocks.{block}.attn.{part}" for block in range(blocks) for part in PARTS
    ]
    assert {candidate.shape for candidate in parts} == {(width, width)}


def test_a_tower_without_layers_is_refused():
    with pytest.raises(SourceError, match=r"^no prunable layer in this tower: Identity; use a CLIP image tower$"):
        prunable_layers(nn.Identity())


# Choosing.


def test_patterns_add_and_take_away_and_taking_away_wins():
    found = candidates(built(RESNET))
    default = choose_layers(found)
    assert default == tuple(candidate.name for candidate in found if candidate.reason is None)
    pool = tuple(candidate.name for candidate in found if candidate.name.startswith("attnpool."))
    assert len(pool) == 4 and choose_layers(found, include=["attnpool.*"]) == default + pool
    assert choose_layers(found, include=["conv1"])[0] == "conv1"
    fewer = choose_layers(found, exclude=["layer4.*", "*.downsample.0"])
    assert fewer == tuple(n for n in default if not n.startswith("layer4.") and not n.endswith(".downsample.0"))
    assert choose_layers(found, include=["attnpool.*"], exclude=["attnpool.*"]) == default


def test_a_pattern_speaks_of_whole_names_and_of_capitals():
    found = candidates(built(RESNET))
    assert set(choose_layers(found)) - set(choose_layers(found, exclude=["conv2"])) == {"conv2"}  # no layer1.0.conv2
    with pytest.raises(OptionError):
        choose_layers(found, exclude=["Conv2"])


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_what_is_chosen_is_default_or_included_and_not_excluded(data):
    found = candidates(on_meta("RN50"))
    names = st.lists(st.sampled_from([candidate.name for candidate in found]), max_size=8)
    include, exclude = data.draw(names), data.draw(names)
    default = {candidate.name for candidate in found if candidate.reason is None}
    wanted = (default | set(include)) - set(exclude)
    assert choose_layers(found, include=include, exclude=exclude) == tuple(c.name for c in found if c.name in wanted)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_named_with_its_option(option):
    patterns = {option: ["layer1.*", "layer9.*"]}
    with pytest.raises(OptionError, match=rf"^no layer is called so: --{option} layer9\.\*; list them with --dry-run$"):
        choose_layers(candidates(built(RESNET)), **patterns)


def test_nothing_left_to_prune_is_refused():
    with pytest.raises(OptionError, match=r"^no layer is left to prune: --exclude takes them all; leave some$"):
        choose_layers(candidates(built(VIT)), include=["conv1"], exclude=["*"])


# Reaching weights.


def test_a_weight_is_a_view_of_the_parameter():
    visual = built(VIT)
    packed = visual.transformer.resblocks[1].attn.in_proj_weight
    before = packed.detach().clone()
    for number, part in enumerate(PARTS):
        weight = layer_weight(visual, f"transformer.resblocks.1.attn.{part}")
        assert torch.equal(weight, before[32 * number : 32 * (number + 1)]) and not weight.requires_grad
        weight.fill_(float(number))
    assert torch.equal(packed, torch.arange(3.0).repeat_interleave(32)[:, None].expand(96, 32))
    assert packed.requires_grad
    layer_weight(visual, "conv1").zero_()
    assert not visual.conv1.weight.any()


def test_the_weights_of_all_layers_have_the_shapes_of_the_candidates():
    for vision in (RESNET, VIT, COCA):
        visual = built(vision)
        shapes = {candidate.name: candidate.shape for candidate in candidates(visual)}
        assert {layer: tuple(w.shape) for layer, w in layer_weights(visual, shapes).items()} == shapes


def test_a_gradient_is_the_layers_rows_and_none_before_there_is_one():
    visual = built(VIT)
    layers = [candidate.name for candidate in candidates(visual)]
    assert all(layer_gradient(visual, layer) is None for layer in layers)
    visual(torch.randn(2, 3, 16, 16)).square().sum().backward()
    attention = visual.transformer.resblocks[0].attn
    for layer in layers:
        gradient = layer_gradient(visual, layer)
        assert gradient is not None and gradient.shape == layer_weight(visual, layer).shape and gradient.any()
    parts = [layer_gradient(visual, f"transformer.resblocks.0.attn.{part}") for part in PARTS]
    assert torch.equal(torch.cat(parts), attention.in_proj_weight.grad)


@pytest.mark.parametrize(
    "layer",
    ["", "conv9", "relu1", "layer1", "attnpool", "layer1.0.q_proj", "bn1.q_proj", "attnpool.in_proj", "conv1.weight"],
)
def test_a_name_that_is_no_layer_is_a_key_error(layer):
    with pytest.raises(KeyError):
        layer_weight(built(RESNET), layer)


def test_an_attention_pools_projections_are_plain_layers():
    visual = built(RESNET)
    assert locate(visual, "attnpool.q_proj") == ("attnpool.q_proj.weight", slice(None))
    assert layer_weight(visual, "attnpool.q_proj").data_ptr() == visual.attnpool.q_proj.weight.data_ptr()


# Packed projections in a state dict.


def test_split_has_one_weight_a_layer():
    visual = built(VIT)
    apart = split_packed(visual.state_dict())
    assert not any(name.endswith("in_proj_weight") for name in apart)
    for layer in (candidate.name for candidate in candidates(visual)):
        assert torch.equal(apart[f"{layer}.weight"], layer_weight(visual, layer))


@pytest.mark.parametrize("vision", [RESNET, VIT, COCA], ids=["resnet", "vit", "coca"])
def test_joining_reverses_splitting(vision):
    visual = built(vision)
    state = arrays(visual.state_dict())
    joined = join_packed(split_packed(state))
    assert list(joined) == list(state), "in the order of modules"
    assert all(np.array_equal(joined[name], state[name]) for name in state)
    rebuilt = build_visual({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}, tensors(joined))
    images = torch.randn(2, 3, vision["image_size"], vision["image_size"])
    with torch.no_grad():
        assert torch.equal(rebuilt(images), visual.eval()(images))


def test_a_resnet_stays_as_it_is():
    """Its attention pool has projections of the same names, which were never one tensor."""
    state = arrays(built(RESNET).state_dict())
    assert {f"attnpool.{part}.weight" for part in PARTS} <= state.keys()
    for changed in (split_packed(state), join_packed(state)):
        assert list(changed) == list(state) and all(changed[name] is state[name] for name in state)


def test_a_packed_projection_is_taken_with_its_three_parts_or_not_at_all() -> None:
    visual = built(VIT)
    attention, mlp = "transformer.resblocks.0.attn", "transformer.resblocks.0.mlp.c_fc"
    three = {f"{attention}.{part}" for part in PARTS}
    assert whole_projections(visual, {*three, mlp, "no.layer"}) == {*three, mlp, "no.layer"}
    for part in three:
        assert whole_projections(visual, {*three, mlp} - {part}) == {mlp}
    # Of a ResNet's attention pool every projection is a layer of its own.
    assert whole_projections(built(RESNET), {"attnpool.q_proj"}) == {"attnpool.q_proj"}
