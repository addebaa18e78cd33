"""Image towers are found under every prefix that frameworks give them, and nothing else is taken for one."""

from __future__ import annotations

import json
from functools import cache

import open_clip
import pytest
import torch

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.tower_keys import KINDS, OUTPUT_HEAD, OUTSIDE, TEXT_TOWER, find_tower

PREFIXES = ("", "module.", "model.", "visual.", "backbone.", "backbone.clip_model.visual.", "image_encoder.", "a.b.")


@cache
def tower_keys(name: str) -> tuple[str, ...]:
    """Names of the tensors of an open_clip tower."""
    config = open_clip.get_model_config(name)
    assert config is not None
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
    with torch.device("meta"):
        model = build_clip({"embed_dim": config["embed_dim"], "vision_cfg": config["vision_cfg"], "text_cfg": text})
    return tuple(model.visual.state_dict())


PUBLISHED = {
    "RN50": "ModifiedResNet",
    "ViT-B-32": "VisionTransformer",
    "convnext_base": "timm ConvNeXt",
    "ViT-B-16-SigLIP": "timm ViT",
    "EVA02-B-16": "timm ViT",
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_published_tower_is_found_under_every_prefix(name, prefix):
    beside = {"sem_seg_head.conv1.weight", "logit_scale"} if prefix else set()
    place = find_tower({prefix + key for key in tower_keys(name)} | beside)
    assert place is not None and (place.kind.name, place.prefix) == (PUBLISHED[name], prefix)
    assert {place.inside(prefix + key) for key in tower_keys(name)} == set(tower_keys(name))
    assert all(place.inside(key) is None and place.reason(key) == OUTSIDE for key in beside)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_tower_lacking_one_mark_is_none(kind):
    for missing in kind.marks:
        keys = {f"visual.{mark}" for mark in kind.marks if mark != missing}
        assert find_tower(keys) is None


def test_a_resnet_with_one_stem_convolution_is_no_clip_tower():
    keys = {f"layer1.{block}.conv{number}.weight" for block in range(3) for number in (1, 2, 3)}
    assert find_tower({"conv1.weight", "bn1.weight", "fc.weight", *keys}) is None


def test_a_name_that_only_ends_like_a_mark_does_not_count():
    marks = KINDS[0].marks
    assert find_tower({f"pre{mark}" for mark in marks}) is None
    assert find_tower(set(marks[:1]) | {f"visual.{mark}" for mark in marks[1:]}) is None


@pytest.mark.parametrize(
    ("prefixes", "found"),
    [
        (("backbone.", "vision_clip."), "backbone."),
        (("student.visual.", "visual."), "visual."),
        (("student.visual.", "teacher.visual."), None),
        (("backbone.", "visual."), None),
        (("student.visual.",), "student.visual."),
    ],
)
def test_of_several_towers_the_one_below_a_usual_prefix_is_taken(prefixes, found):
    place = find_tower({prefix + mark for prefix in prefixes for mark in KINDS[0].marks})
    assert (place.prefix if place else None) == found


@pytest.mark.parametrize(
    ("file", "prefix", "text", "heads"),
    [
        ("fcclip_r50_full", "backbone.clip_model.visual.", "backbone.clip_model.transformer.", True),
        ("han_r50_eval", "backbone.", "text_encoder.", False),
        ("han_r50_train_kd", "backbone.", "text_encoder.", False),
        ("open_clip_rn50_visual", "visual.", None, True),
        ("timm_resnet50_clip", "", None, True),
        ("deeplabv3_r50_official", "backbone.", "text_encoder.", False),
    ],
)
def test_towers_of_real_checkpoints_are_found(reference, file, prefix, text, heads):
    keys = json.loads((reference / f"{file}.json").read_text())
    place = find_tower(keys)
    assert place is not None and place.prefix == prefix
    reasons = {key: place.reason(key) for key in keys}
    assert all(reason == TEXT_TOWER for key, reason in reasons.items() if text and key.startswith(text))
    assert (OUTPUT_HEAD in reasons.values()) == heads
    outside = {key for key, reason in reasons.items() if reason in (TEXT_TOWER, OUTSIDE)}
    assert outside == {key for key in keys if not key.startswith(prefix)}


def test_the_text_tower_of_openai_is_told_from_the_rest():
    keys = [f"visual.{key}" for key in tower_keys("ViT-B-32")]
    text = ["transformer.resblocks.0.attn.in_proj_weight", "token_embedding.weight", "positional_embedding"]
    place = find_tower([*keys, *text, "text_projection", "ln_final.weight", "logit_scale", "decoder.transformer.a"])
    assert place is not None
    assert {place.reason(key) for key in [*text, "text_projection", "ln_final.weight"]} == {TEXT_TOWER}
    assert place.reason("logit_scale") == place.reason("decoder.transformer.a") == OUTSIDE
    assert place.reason("visual.transformer.resblocks.0.attn.in_proj_weight") is None
    assert place.reason("visual.proj") == OUTPUT_HEAD


def test_the_towers_of_hugging_face_are_told_apart():
    layer = "encoder.layers.0.self_attn.q_proj.weight"
    inside = [f"vision_model.{key}" for key in ("embeddings.patch_embedding.weight", layer, "post_layernorm.weight")]
    place = find_tower([*inside, f"text_model.{layer}", "visual_projection.weight"])
    assert place is not None and place.inside(f"vision_model.{layer}") == layer
    assert {place.reason(key) for key in inside} == {None}
    assert place.reason(f"text_model.{layer}") == TEXT_TOWER
    assert place.reason("visual_projection.weight") == OUTSIDE
