"""A tower is found in the checkpoints of every library, its tensors one-to-one and none dropped."""

from __future__ import annotations

import json
from functools import cache

import open_clip
import pytest
import torch

from opentrans_cli.clip.architecture import meta_visual
from opentrans_cli.clip.key_tables import (
    OUTPUT_HEAD,
    OUTSIDE,
    TABLES,
    TEXT_TOWER,
    Found,
    find_layers,
    find_table,
    find_tower,
    find_tower_layers,
    laid_out,
)
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
        assert table.layout.name_of(place.key, place.third) == name


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


# All layers or an error.

LAYERS = {f"layer1.{block}.conv1": (4, 4, 1, 1) for block in range(3)}
KEYS = {f"{layer}.weight": shape for layer, shape in LAYERS.items()}


def test_all_layers_have_places_or_the_first_without_one_is_named():
    where = {"where": "x.pth", "table": None, "under": None, "next_move": "look elsewhere"}
    assert set(find_tower_layers(LAYERS, KEYS, **where).layers) == set(LAYERS)
    for keys, message in (
        ({k: v for k, v in KEYS.items() if ".1." not in k}, "no place of its shape in x.pth: layer1.1.conv1, by"),
        ({"a": (1,)}, "^the tower is not there in x.pth: .*; look elsewhere$"),
        ({f"{p}.{k}": v for k, v in KEYS.items() for p in "ab"}, "^several towers fit in x.pth: .*; look elsewhere$"),
    ):
        with pytest.raises(TransferError, match=message) as caught:
            find_tower_layers(LAYERS, keys, **where)
        assert "bundle" not in str(caught.value)


def found_in(keys, table, prefix=""):
    return Found(find_table(table), prefix, keys, {}, ())


def test_parts_that_a_library_keeps_apart_are_found_part_by_part_and_laid_out_as_it_has_them():
    name = "transformer.resblocks.0.attn.in_proj_bias"
    found = found_in({name: (12,)}, "open-clip")
    (place,) = found.places(name, (12,))
    assert place.key == name and found.rows(place) is None
    apart = {f"encoder.layers.0.self_attn.{part}_proj.bias": (4,) for part in "qkv"}
    assert [place.key for place in found_in(apart, "huggingface").places(name, (12,))] == list(apart)
    assert found_in(dict(list(apart.items())[:2]), "huggingface").places(name, (12,)) == ()
    assert found_in({"conv1.weight": (4, 3, 3, 3)}, "open-clip").places("conv1.weight", (8, 3, 3, 3)) == ()
    found = found_in({"attn.in_proj_weight": (12, 4)}, "open-clip")
    assert found.rows(found.places("attn.k_proj.weight", (4, 4))[0]) == slice(4, 8)
    tensor = torch.arange(6).reshape(2, 3)
    found = found_in({"visual_projection.weight": (3, 2)}, "huggingface", "vision_model.")
    (place,) = found.places("proj", (2, 3))
    assert torch.equal(laid_out(tensor, place), tensor.T)


# Towers that are known by a few names.

PREFIXES = ("", "module.", "model.", "visual.", "backbone.", "backbone.clip_model.visual.", "image_encoder.", "a.b.")
PUBLISHED = {
    "RN50": "ModifiedResNet",
    "ViT-B-32": "VisionTransformer",
    "convnext_base": "timm ConvNeXt",
    "ViT-B-16-SigLIP": "timm ViT",
    "EVA02-B-16": "timm ViT",
}
KINDS = [kind for layout in dict.fromkeys(table.layout for table in TABLES) for kind in layout.kinds]
MARKS = KINDS[0].marks


def tower_keys(name):
    """Names of the tensors of an open_clip tower."""
    config = open_clip.get_model_config(name)
    return tuple(meta_visual({"embed_dim": config["embed_dim"], "vision_cfg": config["vision_cfg"]}).state_dict())


def test_every_published_tower_is_found_under_every_prefix():
    for name, kind in PUBLISHED.items():
        keys = tower_keys(name)
        for prefix in PREFIXES:
            beside = {"sem_seg_head.conv1.weight", "logit_scale"} if prefix else set()
            place = find_tower({prefix + key for key in keys} | beside)
            assert place is not None and (place.kind.name, place.prefix) == (kind, prefix)
            assert {place.inside(prefix + key) for key in keys} == set(keys)
            assert all(place.inside(key) is None and place.reason(key) == OUTSIDE for key in beside)


def test_what_lacks_a_mark_or_only_ends_like_one_is_no_clip_tower():
    for kind in KINDS:
        for missing in kind.marks:
            assert find_tower({f"visual.{mark}" for mark in kind.marks if mark != missing}) is None
    plain = {f"layer1.{block}.conv{number}.weight" for block in range(3) for number in (1, 2, 3)}
    assert find_tower({"conv1.weight", "bn1.weight", "fc.weight", *plain}) is None
    assert find_tower({f"pre{mark}" for mark in MARKS}) is None
    assert find_tower(set(MARKS[:1]) | {f"visual.{mark}" for mark in MARKS[1:]}) is None


def test_of_several_towers_the_one_below_a_usual_prefix_is_known():
    for prefixes, found in (
        (("backbone.", "vision_clip."), "backbone."),
        (("student.visual.", "visual."), "visual."),
        (("student.visual.", "teacher.visual."), None),
        (("backbone.", "visual."), None),
        (("student.visual.",), "student.visual."),
    ):
        place = find_tower({prefix + mark for prefix in prefixes for mark in MARKS})
        assert (place.prefix if place else None) == found


def test_towers_of_real_checkpoints_are_found_and_nothing_of_them_is_left(reference):
    layers, tensors = towers("rn50")
    for file, table, prefix, others in (
        ("fcclip_r50_full", "fcclip", "backbone.clip_model.visual.", 453),
        ("han_r50_eval", "han", "backbone.", 446),
        ("han_r50_train_kd", "han", "backbone.", 825),
        ("deeplabv3_r50_official", "han", "backbone.", 207),
        ("open_clip_rn50_visual", "open-clip", "visual.", 0),
        ("timm_resnet50_clip", "timm", "", 0),
    ):
        listed = json.loads((reference / f"{file}.json").read_text())
        keys = {key: tuple(shape) for key, shape in listed.items()}
        found, place = find_layers(layers, keys), find_tower(keys)
        assert (found.table.name, found.prefix, found.missing) == (table, prefix, ())
        places = {name: there for name in tensors if (there := found.place(name)) is not None}
        assert len({there.key for there in places.values()}) == len(places) == len(keys) - others
        assert all(name.startswith("attnpool.") for name in set(tensors) - set(places))
        assert place is not None and place.prefix == prefix
        reasons = {key: place.reason(key) for key in keys}
        assert {key for key, reason in reasons.items() if reason not in (TEXT_TOWER, OUTSIDE)} == {
            key for key in keys if key.startswith(prefix)
        }
        assert {f"{layer}.weight" for layer in layers} <= {place.inside(key) for key in keys}


def test_text_towers_are_told_from_the_rest():
    keys = [f"visual.{key}" for key in tower_keys("ViT-B-32")]
    text = ["transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight", "positional_embedding"]
    place = find_tower([*keys, *text, "text_projection", "ln_final.weight", "logit_scale", "decoder.transformer.a"])
    assert place is not None
    assert {place.reason(key) for key in [*text, "text_projection", "ln_final.weight"]} == {TEXT_TOWER}
    assert place.reason("logit_scale") == place.reason("decoder.transformer.a") == OUTSIDE
    assert place.reason("visual.transformer.resblocks.0.attn.in_proj_weight") is None
    assert place.reason("visual.proj") == OUTPUT_HEAD
    layer = "encoder.layers.0.self_attn.q_proj.weight"
    inside = [f"vision_model.{key}" for key in ("embeddings.patch_embedding.weight", layer, "post_layernorm.weight")]
    place = find_tower([*inside, f"text_model.{layer}", "visual_projection.weight"])
    assert place is not None and place.inside(f"vision_model.{layer}") == "transformer.resblocks.0.attn.q_proj.weight"
    assert {place.reason(key) for key in inside} == {None}
    assert place.reason(f"text_model.{layer}") == TEXT_TOWER
    assert place.reason("visual_projection.weight") == OUTSIDE
