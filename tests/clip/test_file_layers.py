"""Which tensors of a file are layers, under which names, and why the others are not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from opentrans_cli.checkpoints.pruned import PrunedTensor, open_pruned
from opentrans_cli.clip.architecture import build_clip, meta_visual
from opentrans_cli.clip.file_layers import FileContents, file_contents, read_layer
from opentrans_cli.clip.layers import PARTS, candidates, convolutions, layer_weight
from opentrans_cli.errors import SourceError

TEXT = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 1, "layers": 2}
TIMM = {"timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear", "timm_drop": 0.0, "timm_drop_path": 0.0}
TOWERS = {
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "vit": {"image_size": 16, "layers": 11, "width": 32, "patch_size": 8, "head_width": 8},
    "convnext": {"timm_model_name": "convnext_atto", "image_size": 32, **TIMM},
}


def contents(shapes: dict[str, tuple[int, ...]]) -> FileContents:
    return file_contents({key: PrunedTensor(shape, key) for key, shape in shapes.items()})


def kinds(found: FileContents) -> dict[str, tuple[str, str | None]]:
    return {layer.name: (layer.kind, layer.skipped) for layer in found.layers}


def test_four_dimensions_are_a_convolution_and_two_a_linear_layer():
    found = contents({"a.conv.weight": (4, 3, 3, 3), "fc.weight": (5, 4), "bare": (4, 4), "deep.bare": (2, 2, 1, 1)})
    assert kinds(found) == {
        "a.conv": ("conv", None),
        "fc": ("linear", None),
        "bare": ("linear", None),
        "deep.bare": ("conv", None),
    }
    assert list(kinds(contents({"weight": (2, 2)}))) == ["weight"]


def test_what_can_be_no_layer_is_counted_by_reason():
    shapes = {"a": (3,), "b": (4,), "c": (), "d": (0, 3), "f.weight": (2, 2)}
    tensors = {name: PrunedTensor(shape, name) for name, shape in shapes.items()}
    found = file_contents(tensors | {"e": PrunedTensor((3, 3), "e", problem="not floating point")})
    assert found.counted == {"1-dimensional": 2, "scalar": 1, "empty": 1, "not floating point": 1}
    assert list(kinds(found)) == ["f"]


def test_weights_in_a_form_that_is_not_read_are_named_and_their_scales_are_no_layers():
    """GPTQ, bitsandbytes and mxfp6; position ids are whole numbers too, but no weight."""
    coded = {"a.qweight": (2, 4), "b.weight": (16, 1), "c.weight_packed": (4, 3)}
    tensors = {key: PrunedTensor(shape, key, problem="not floating point") for key, shape in coded.items()}
    tensors["position_ids"] = PrunedTensor((1, 7), "position_ids", problem="not floating point")
    shapes = {
        "a.scales": (2, 4),
        "b.weight.absmax": (4,),
        "c.weight_scale": (4, 2),
        "d.weight": (4, 4),
        "d.weight_scale": (4, 1),
    }
    found = file_contents(tensors | {key: PrunedTensor(shape, key) for key, shape in shapes.items()})
    assert found.coded == tuple(coded) and list(kinds(found)) == ["d"]
    assert found.counted == {"not floating point": 1, "scales of quantised weights": 3, "1-dimensional": 1}


@pytest.mark.parametrize(
    ("key", "shape", "reason"),
    [
        ("positional_embedding", (77, 8), "embedding table"),
        ("token_embedding.weight", (99, 8), "embedding table"),
        ("layers.0.attn.relative_position_bias_table", (169, 3), "embedding table"),
        ("predictor.query_feat.weight", (250, 8), "embedding table"),
        ("predictor.query_embed.weight", (250, 8), "embedding table"),
        ("transformer.level_embed", (3, 8), "embedding table"),
        ("pos_embed", (1, 7, 7, 8), "embedding table"),
        ("cls_token", (1, 1, 8), "embedding table"),
        ("text_projection", (8, 8), "projection without a module"),
        ("visual.proj", (8, 8), "projection without a module"),
        ("text_projection.weight", (8, 8), None),
        ("patch_embed.proj.weight", (8, 3, 4, 4), None),
        ("embeddings.patch_embedding.weight", (8, 3, 4, 4), None),
        ("class_embed.weight", (9, 8), None),
        ("class_embed.layers.0.weight", (9, 8), None),
        ("embedding", (9, 8), "embedding table"),
        ("layer1", (9, 8), None),
        ("attn_mask", (7, 7), "attention mask"),
        ("conv.weight", (4, 3, 5), "3-dimensional"),
        ("conv.weight", (4, 3, 2, 5, 5), "5-dimensional"),
    ],
)
def test_what_is_no_layer_is_listed_with_its_reason(key, shape, reason):
    (layer,) = contents({key: shape}).layers
    assert layer.skipped == reason
    assert len(layer.shape) in (2, 4) and torch.Size(layer.shape).numel() == torch.Size(shape).numel()


def test_a_packed_projection_is_three_layers_and_one_of_other_rows_is_one():
    found = contents({"attn.in_proj_weight": (12, 4), "in_proj_weight": (6, 2), "odd.in_proj_weight": (12, 5)})
    assert kinds(found) == {
        **{f"attn.{part}": ("attention", None) for part in PARTS},
        **{part: ("attention", None) for part in PARTS},
        "odd.in_proj_weight": ("linear", None),
    }


TRUNK = {f"backbone.{name}.weight": (2, 2, 1, 1) for name in ("conv1", "conv2", "conv3", "layer1.0.conv1")}


def test_of_two_tensors_of_one_name_the_second_goes_by_its_key():
    found = contents({"a": (2, 2), "a.weight": (3, 3)})
    assert {layer.name: layer.shape for layer in found.layers} == {"a": (2, 2), "a.weight": (3, 3)}
    found = contents({"conv1.weight": (3, 3), **TRUNK})
    assert kinds(found)["conv1"] == ("conv", None)
    assert kinds(found)["conv1.weight"] == ("linear", "outside the image tower")


def test_names_that_cannot_be_told_apart_are_refused():
    shapes = {"b.attn.q_proj": (2, 2), "outside.b.attn.q_proj": (2, 2), "b.attn.in_proj_weight": (6, 2)}
    with pytest.raises(
        SourceError, match=r"^two tensors of one name in the checkpoint: 'b\.attn\.q_proj'; rename one$"
    ):
        contents(shapes)


# Values.


def saved(path: Path, state: dict[str, Tensor]) -> tuple[FileContents, dict[str, Tensor]]:
    torch.save(state, path)
    file = open_pruned(path)
    found = file_contents(file.tensors)
    return found, {layer.name: torch.from_numpy(read_layer(file, layer)) for layer in found.layers}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.plain, self.attn = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.MultiheadAttention(8, 2)


def test_pruned_modules_of_torch_give_their_masked_weights(tmp_path):
    torch.manual_seed(0)
    model = Small()
    prune.l1_unstructured(model.conv, "weight", 0.5)
    prune.random_unstructured(model.attn, "in_proj_weight", 0.7)
    _, read = saved(tmp_path / "pruned.pth", model.state_dict())
    assert set(read) == {"conv", "plain", "attn.out_proj", *(f"attn.{part}" for part in PARTS)}
    assert torch.equal(read["conv"], model.conv.weight) and (read["conv"] == 0).sum() == 54
    assert torch.equal(torch.cat([read[f"attn.{part}"] for part in PARTS]), model.attn.in_proj_weight)


def test_a_mask_without_its_weight_is_no_layer_by_default(tmp_path):
    found, read = saved(tmp_path / "a.pth", {"conv2.weight_mask": torch.ones(4, 4, 3, 3)})
    assert kinds(found) == {"conv2": ("conv", "pruning mask")} and torch.equal(read["conv2"], torch.ones(4, 4, 3, 3))


def test_parametrized_weights_are_left_out():
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(3, 4)), parametrizations.spectral_norm(nn.Linear(4, 5))
    )
    found = contents({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
    assert len(found.layers) == 3
    assert {layer.skipped for layer in found.layers} == {"parametrized, its weight is computed from it"}


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3, 2, 5, 5)])
def test_kernel_positions_stay_apart_in_convolutions_of_other_dimensions(tmp_path, shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    _, read = saved(tmp_path / "a.pth", {"conv.weight": weight})
    assert torch.equal(read["conv"].flatten(2), weight.flatten(2)) and read["conv"].ndim == 4


# CLIP towers in files.


@pytest.mark.parametrize("kind", TOWERS)
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.clip_model."])
def test_a_clip_in_a_file_has_the_layers_of_its_tower(tmp_path, kind, prefix):
    torch.manual_seed(0)
    model = build_clip({"embed_dim": 16, "vision_cfg": TOWERS[kind], "text_cfg": TEXT})
    found, read = saved(tmp_path / "clip.pth", {prefix + key: value for key, value in model.state_dict().items()})
    expected = {
        candidate.name: "output head" if candidate.reason == "output head" else None
        for candidate in candidates(model.visual)
    }
    text = {layer.name for layer in found.layers if layer.skipped == "text tower"}
    beside = {"positional_embedding", "proj", "attnpool.positional_embedding"}
    inside = {layer.name: layer.skipped for layer in found.layers if layer.name not in text | beside}
    assert inside == expected
    assert all(torch.equal(read[name], layer_weight(model.visual, name)) for name in expected)
    out_proj = model.transformer.resblocks[1].attn.out_proj.weight
    assert sum(read[name].shape == out_proj.shape and torch.equal(read[name], out_proj) for name in text) == 1
    assert len(text) == 2 * 6 + 3


def test_names_of_the_text_tower_that_a_vit_has_inside_go_by_text(tmp_path):
    model = build_clip({"embed_dim": 16, "vision_cfg": TOWERS["vit"], "text_cfg": TEXT})
    _, read = saved(tmp_path / "clip.pth", model.state_dict())
    name = "transformer.resblocks.0.mlp.c_fc"
    assert torch.equal(read[name], model.visual.get_submodule(name).weight)
    assert torch.equal(read[f"text.{name}"], model.get_submodule(name).weight)


def test_a_resnet_clip_in_a_file_tells_its_configuration():
    """With the pool its image size is known; a framework's file, without, is taken for 224 pixels."""
    vision, width = TOWERS["resnet"], TOWERS["resnet"]["width"]
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": False}
    state = {key: tuple(tensor.shape) for key, tensor in build_clip(config).state_dict().items()}
    tower = {key.removeprefix("visual."): shape for key, shape in state.items() if key.startswith("visual.")}
    assert contents({f"backbone.clip_model.{key}": shape for key, shape in state.items()}).model_cfg == config
    for prefix in ("", "visual.", "backbone."):
        alone = {prefix + key: shape for key, shape in tower.items()}
        trunk = {key: shape for key, shape in alone.items() if "attnpool" not in key}
        whole = contents(alone).model_cfg
        assert whole == {"embed_dim": 16, "vision_cfg": vision}
        assert contents(trunk).model_cfg == {"embed_dim": 32 * width, "vision_cfg": {**vision, "image_size": 224}}
        assert {key: tuple(tensor.shape) for key, tensor in meta_visual(whole).state_dict().items()} == tower
        cut = contents({key: shape for key, shape in alone.items() if "layer4" not in key})
        assert cut.tower is not None and cut.model_cfg is None


def test_checkpoints_of_frameworks_give_the_55_convolutions_of_rn50(reference):
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text())["layers"]
    for file, whole, heads, text, outside in (
        ("fcclip_r50_full", True, 4, 75, 144),
        ("han_r50_eval", False, 0, 75, 142),
        ("han_r50_train_kd", False, 0, 75, 221),
        ("deeplabv3_r50_official", False, 0, 75, 11),
        ("open_clip_rn50_visual", False, 4, 0, 0),
        ("timm_resnet50_clip", False, 4, 0, 0),
    ):
        listed = json.loads((reference / f"{file}.json").read_text())
        found = contents({key: tuple(shape) for key, shape in listed.items()})
        assert [layer.name for layer in found.layers if layer.skipped is None] == [row["name"] for row in rows]
        counts = Counter(layer.skipped for layer in found.layers)
        assert (counts["output head"], counts["text tower"], counts["outside the image tower"]) == (
            heads,
            text,
            outside,
        )
        assert found.model_cfg is not None and ("text_cfg" in found.model_cfg) == whole
        vision = {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None}
        assert found.model_cfg["vision_cfg"] == vision
        assert list(convolutions(meta_visual(found.model_cfg))) == [row["name"] for row in rows]


PARTS_OF_NAMES = st.sampled_from(
    ["conv1", "conv2", "conv3", "layer1", "0", "attn", "weight", "weight_orig", "in_proj_weight", "proj",
     "visual", "transformer", "text", "positional_embedding", "outside"]
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    st.dictionaries(
        st.lists(PARTS_OF_NAMES, min_size=1, max_size=4).map(".".join),
        st.lists(st.integers(0, 3), max_size=5).map(tuple),
        max_size=12,
    )
)
def test_every_tensor_is_a_layer_or_counted_and_names_are_distinct(shapes):
    try:
        found = contents(shapes)
    except SourceError as error:
        assert str(error).startswith("two tensors of one name")
        return
    names = [layer.name for layer in found.layers]
    assert len(names) == len(set(names))
    used = {layer.tensor for layer in found.layers}
    assert used <= set(shapes) and len(used) + sum(found.counted.values()) == len(shapes)
    assert all(len(layer.shape) in (2, 4) and 0 not in layer.shape for layer in found.layers)
