"""A tower is found in the checkpoints of every library, its tensors one-to-one and none dropped."""

from __future__ import annotations

import json
from functools import cache

import pytest

from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.key_tables import TABLES, find_layers, find_table
from opentrans_cli.clip.layers import layer_weights, prunable_layers, split_packed
from opentrans_cli.errors import OptionError, TransferError

RESNET = {"layers": [3, 4, 6, 3], "width": 64, "image_size": 224, "patch_size": None}
TOWERS = {
    "rn50": {"embed_dim": 1024, "vision_cfg": RESNET},
    "small resnet": {"embed_dim": 32, "vision_cfg": {**RESNET, "layers": [1, 2, 1, 1], "width": 8, "image_size": 64}},
    "vit": {"embed_dim": 24, "vision_cfg": {"layers": 3, "width": 64, "patch_size": 16, "image_size": 64}},
    "convnext": {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "convnext_atto", "timm_model_pretrained": False,
            "timm_pool": "", "timm_proj": "linear", "image_size": 64,
        },
    },
}  # fmt: skip
FITTING = {
    "timm": ("rn50", "small resnet", "convnext"),
    "detectron2": ("rn50", "small resnet"),
    "mmseg-v1c": ("rn50", "small resnet"),
    "mmseg-v1d": ("rn50", "small resnet"),
    "huggingface": ("vit",),
}
CASES = [(table, tower) for table in TABLES for tower in FITTING.get(table.name, tuple(TOWERS))]
NO_PLACE = {"detectron2": ("attnpool.",), "mmseg-v1c": ("attnpool.",), "mmseg-v1d": ("attnpool.",)}
every_case = pytest.mark.parametrize(("table", "tower"), CASES, ids=lambda value: getattr(value, "name", value))


@cache
def towers(name):
    """(layers by name, all tensors as a bundle names them) -> shapes."""
    visual = meta_visual({**TOWERS[name], "text_cfg": {}})
    layers = {layer: tuple(weight.shape) for layer, weight in layer_weights(visual, prunable_layers(visual)).items()}
    tensors = {key: tuple(tensor.shape) for key, tensor in split_packed(visual.state_dict()).items()}
    for key in [key for key in tensors if key.endswith("in_proj_bias")]:
        third = (tensors.pop(key)[0] // 3,)
        tensors |= {key.replace("in_proj_bias", f"{part}_proj.bias"): third for part in "qkv"}
    return layers, tensors


def placed(table, tower, prefix):
    """The tensors of a tower as a checkpoint of `table` has them: key -> shape, and place by name."""
    keys, places = {}, {}
    packed = table.layout.name == "clip" and tower == "vit"
    for name, shape in towers(tower)[1].items():
        possible = table.layout.places(name)
        if not possible:
            assert name.startswith(NO_PLACE[table.name])
            continue
        place = possible[0] if packed else possible[-1]
        key = prefix + place.key if not place.key.startswith("../") else place.key.removeprefix("../")
        assert keys.setdefault(key, place.stored_shape(shape)) == place.stored_shape(shape)
        places[name] = place
    return keys, places


@every_case
def test_names_go_one_to_one_and_come_back(table, tower):
    _, places = placed(table, tower, "")
    spots = {(place.key, place.third, place.transposed) for place in places.values()}
    assert len(spots) == len(places)
    for name, place in places.items():
        assert table.layout.name_of(place) == name


@every_case
@pytest.mark.parametrize("noise", ["", "module.", "model.encoder.", "image_encoder.module."])
def test_every_layer_and_tensor_is_found_below_any_prefix(table, tower, noise):
    prefix = noise + (table.prefix if table.layout.name == "clip" else "vision_model." if tower == "vit" else "")
    keys, places = placed(table, tower, prefix)
    if table.layout.name == "huggingface" and noise:
        keys[f"{noise}visual_projection.weight"] = keys.pop("visual_projection.weight")
    keys |= {prefix.removesuffix(table.prefix) + mark: () for mark in table.marks}
    keys |= {"sem_seg_head.conv1.weight": (8, 3, 3, 3), "logit_scale": ()}
    layers, tensors = towers(tower)
    found = find_layers(layers, keys)
    assert found.prefix == prefix and found.missing == () and set(found.layers) == set(layers)
    if table.name == "tower" and (noise or prefix):
        assert found.table.layout == table.layout
    else:
        assert found.table == table
    for name, place in places.items():
        there = found.place(name)
        assert there is not None and (there.third, there.transposed) == (place.third, place.transposed)
        assert keys[there.key] == there.stored_shape(tensors[name])
    untouched = set(keys) - {there.key for name in places if (there := found.place(name))}
    marks = {prefix.removesuffix(table.prefix) + mark for mark in table.marks}
    assert untouched == {"sem_seg_head.conv1.weight", "logit_scale"} | marks


@pytest.mark.parametrize(
    ("file", "table", "prefix", "others"),
    [
        ("fcclip_r50_full", "fcclip", "backbone.clip_model.visual.", 453),
        ("han_r50_eval", "han", "backbone.", 446),
        ("han_r50_train_kd", "han", "backbone.", 825),
        ("deeplabv3_r50_official", "han", "backbone.", 207),
        ("open_clip_rn50_visual", "open-clip", "visual.", 0),
        ("timm_resnet50_clip", "timm", "", 0),
    ],
)
def test_real_key_lists_are_recognised_and_nothing_of_the_tower_is_left(reference, file, table, prefix, others):
    keys = {key: tuple(shape) for key, shape in json.loads((reference / f"{file}.json").read_text()).items()}
    layers, tensors = towers("rn50")
    found = find_layers(layers, keys)
    assert (found.table.name, found.prefix, found.missing) == (table, prefix, ())
    places = {name: place for name in tensors if (place := found.place(name)) is not None}
    assert len({place.key for place in places.values()}) == len(places) == len(keys) - others
    assert all(name.startswith("attnpool.") for name in set(tensors) - set(places))


COLUMNS = {
    "open_clip": "open-clip", "fcclip": "fcclip", "han": "han", "timm": "timm", "mmseg_resnetv1c": "mmseg-v1c",
    "mmseg_resnetv1d": "mmseg-v1d", "detectron2_resnet": "detectron2",
}  # fmt: skip


@pytest.mark.parametrize(("column", "name"), COLUMNS.items())
def test_all_55_convolutions_have_the_names_of_the_reference(reference, column, name):
    rows = json.loads((reference / "clip_rn50_name_map.json").read_text())["rows"]
    table = find_table(name)
    assert len(rows) == 55
    for row in rows:
        inside = row["open_clip"].removeprefix("visual.")
        assert table.prefix + table.layout.places(inside)[0].key == row[column]
    layers = {row["open_clip"].removeprefix("visual.").removesuffix(".weight"): tuple(row["shape"]) for row in rows}
    found = find_layers(layers, {row[column]: tuple(row["shape"]) for row in rows})
    assert found.table == table and not found.missing


def test_hugging_face_names_are_those_of_the_library():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=1, image_size=64,
        patch_size=16, projection_dim=24,
    )  # fmt: skip
    state = CLIPVisionModelWithProjection(config).state_dict()
    keys = {key: tuple(tensor.shape) for key, tensor in state.items()}
    layers, tensors = towers("vit")
    found = find_layers(layers, keys)
    assert (found.table.name, found.missing) == ("huggingface", ())
    assert {place.key for name in tensors if (place := found.place(name))} == set(keys)


def test_the_rows_of_a_packed_projection_are_a_third_each():
    layers, _ = towers("vit")
    keys, _ = placed(find_table("open-clip"), "vit", "visual.")
    found = find_layers(layers, keys)
    places = [found.layers[f"transformer.resblocks.1.attn.{part}_proj"] for part in "qkv"]
    assert {place.key for place in places} == {"visual.transformer.resblocks.1.attn.in_proj_weight"}
    assert [place.rows((192, 64)) for place in places] == [slice(0, 64), slice(64, 128), slice(128, 192)]


def test_a_text_tower_of_equal_width_is_not_taken_for_the_image_tower():
    layers, _ = towers("vit")
    keys, _ = placed(find_table("open-clip"), "vit", "visual.")
    text = {key.removeprefix("visual."): shape for key, shape in keys.items() if "resblocks" in key}
    assert find_layers(layers, keys | text).prefix == "visual."
    hugging, _ = placed(find_table("huggingface"), "vit", "vision_model.")
    text = {f"text_model.{key.removeprefix('vision_model.')}": shape for key, shape in hugging.items()}
    assert find_layers(layers, hugging | text).prefix == "vision_model."


def test_of_several_towers_the_usual_one_is_taken_and_else_the_candidates_are_named():
    layers, _ = towers("small resnet")
    table = find_table("han")
    here, teacher = placed(table, "small resnet", "backbone.")[0], placed(table, "small resnet", "teacher.")[0]
    student = placed(table, "small resnet", "student.")[0]
    assert find_layers(layers, here | teacher).prefix == "backbone."
    with pytest.raises(TransferError, match=r"several towers fit .*'student\.'.*'teacher\.'") as caught:
        find_layers(layers, teacher | student)
    assert "choose one with --to NAME or --under PREFIX" in str(caught.value)
    assert find_layers(layers, teacher | student, under="student.").prefix == "student."
    assert find_layers(layers, teacher | student, under="student").prefix == "student."
    with pytest.raises(TransferError, match=r"no layer is there under 'nobody\.'"):
        find_layers(layers, teacher | student, under="nobody")
    assert find_layers(layers, placed(table, "small resnet", "")[0] | teacher, under="").prefix == ""
    visual = placed(table, "small resnet", "visual.")[0]
    with pytest.raises(TransferError, match=r"han under 'backbone\.'"):
        find_layers(layers, here | visual)
    assert find_layers(layers, here | visual, to="han").prefix == "backbone."
    assert find_layers(layers, here | visual, to="open-clip").prefix == "visual."


def test_half_of_the_layers_are_no_majority_unless_the_table_is_named():
    layers, _ = towers("small resnet")
    keys, places = placed(find_table("detectron2"), "small resnet", "")
    half = [places[f"{layer}.weight"].key for layer in list(layers)[: len(layers) // 2]]
    few = {key: keys[key] for key in half}
    with pytest.raises(TransferError, match=f"{len(half)} of {len(layers)} layers at best"):
        find_layers(layers, few)
    found = find_layers(layers, few, to="detectron2")
    assert set(found.missing) == set(list(layers)[len(half) :])


def test_a_layer_of_another_shape_is_missing_and_equal_names_alone_are_no_tower():
    layers, _ = towers("small resnet")
    keys, _ = placed(find_table("han"), "small resnet", "backbone.")
    layer = list(layers)[3]
    found = find_layers(layers, keys | {f"backbone.{layer}.weight": (1, 2, 3, 3)})
    assert found.missing == (layer,)
    with pytest.raises(TransferError, match="no layer is there with its shape"):
        find_layers(layers, dict.fromkeys(keys, (7,)))
    with pytest.raises(TransferError, match="by the names of timm"):
        find_layers(layers, keys, to="timm")


def test_a_table_nobody_knows_is_refused_with_the_known_ones():
    layers, _ = towers("small resnet")
    with pytest.raises(OptionError, match="unknown key table: 'caffe'; choose one of fcclip, openai, open-clip, han"):
        find_layers(layers, {}, to="caffe")
    assert find_table("mask2former") is find_table("han")
