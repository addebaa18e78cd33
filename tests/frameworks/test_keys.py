"""Every tensor finds one place, by its whole name, or is refused aloud, and comes back from it unchanged."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.errors import TransferError
from opentrans_cli.frameworks.keys import KeyMatch, map_keys, to_original, to_ours, tower_rules
from opentrans_cli.frameworks.mask_decoder import DecoderSizes, MaskDecoder
from opentrans_cli.frameworks.original import decoder_sizes
from opentrans_cli.frameworks.original_names import DECODER_RULES, DETECTRON2_RULES


def test_the_first_rule_that_matches_decides():
    first, second = NameRule("a.{rest*}", "x.{rest*}", "one"), NameRule("{rest*}", "y.{rest*}", "two")
    assert map_keys(["a.b", "b.a"], [first, second]) == (
        KeyMatch("a.b", "x.b", first),
        KeyMatch("b.a", "y.b.a", second),
    )


def test_a_key_without_a_rule_is_named_with_the_next_move():
    with pytest.raises(TransferError) as error:
        map_keys(["stem.weight", "odd.weight"], [NameRule("stem.weight", "a", "stem")], framework="deeplabv3")
    assert str(error.value) == (
        "deeplabv3 has no rule for this tensor: 'odd.weight'; use a ResNet CLIP tower, or add a rule to its key table"
    )


def test_two_tensors_never_get_one_name():
    with pytest.raises(TransferError, match=r"under one name: 'same' from 'a1' and 'a2'"):
        map_keys(["a1", "a2"], [NameRule("a{n#}", "same", "any")])


def test_any_number_of_tensors_may_be_left_out_on_purpose():
    rule = NameRule("a{n#}", None, "any")
    assert [match.target for match in map_keys(["a1", "a2"], [rule])] == [None, None]


def test_tower_rules_agree_with_the_checked_names_of_the_published_frameworks(reference: Path):
    rows = json.loads((reference / "clip_rn50_name_map.json").read_text())["rows"]
    matches = map_keys([row["open_clip"].removeprefix("visual.") for row in rows], tower_rules("backbone."))
    assert [match.target for match in matches] == [row["deeplab_zs3"] for row in rows]
    assert {match.rule.kind for match in matches} == {"convolution"}


def test_every_tensor_of_rn50_outside_the_attention_pool_has_a_rule(reference: Path):
    names = json.loads((reference / "open_clip_rn50_visual.json").read_text())
    keys = [name.removeprefix("visual.") for name in names]
    trunk = [key for key in keys if not key.startswith("attnpool.")]
    kinds = [match.rule.kind for match in map_keys(trunk, tower_rules(""))]
    assert kinds.count("convolution") == 55
    assert kinds.count("batchnorm") == 55 * 5


# Mask decoders.

CHANNELS = (256, 512, 1024, 2048)
PARTS = ("sem_seg_head.pixel_decoder.", "sem_seg_head.predictor.")
CLASSIFIERS = ("class_embed", "_mask_pooling_proj", "predictor.logit_scale")


def published(reference: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a published mask decoder with the values of the parity vectors, without its classifier."""
    fill = runpy.run_path(str(reference / "parity" / "weights.py"))["fill"]
    shapes = json.loads((reference / name).read_text())
    return {
        key: torch.from_numpy(fill(key, tuple(shape), 3))
        for key, shape in shapes.items()
        if key.startswith(PARTS) and not any(part in key for part in CLASSIFIERS)
    }


@pytest.mark.parametrize(("name", "queries"), [("fcclip_r50_full.json", 250), ("han_r50_eval.json", 100)])
def test_every_tensor_of_a_published_decoder_has_its_place_and_comes_back(reference: Path, name: str, queries: int):
    original = published(reference, name)
    renamed = to_ours(original, DETECTRON2_RULES)
    assert not renamed.unknown and not renamed.unneeded
    assert decoder_sizes(renamed.tensors) == DecoderSizes(queries=queries)
    with torch.device("meta"):
        expected = MaskDecoder(CHANNELS, DecoderSizes(queries=queries)).state_dict(prefix="decoder.")
    assert {key: value.shape for key, value in renamed.tensors.items()} == {
        key: value.shape for key, value in expected.items()
    }
    back = to_original(renamed.tensors, DETECTRON2_RULES)
    assert back.keys() == original.keys()
    assert all(torch.equal(back[key], original[key]) for key in original)


def test_self_attention_is_cut_into_queries_keys_and_values_in_this_order():
    name = "sem_seg_head.predictor.transformer_self_attention_layers.2.self_attn.in_proj_bias"
    tensors = to_ours({name: torch.arange(6)}, DETECTRON2_RULES).tensors
    layer = "decoder.transformer_module.decoder.layers.2.self_attn"
    assert {key: value.tolist() for key, value in tensors.items()} == {
        f"{layer}.q_proj.bias": [0, 1],
        f"{layer}.k_proj.bias": [2, 3],
        f"{layer}.v_proj.bias": [4, 5],
    }


def test_the_first_checkpoints_name_of_the_queries_is_known():
    tensors = {"sem_seg_head.predictor.static_query.weight": torch.zeros(2, 4)}
    assert list(to_ours(tensors, DETECTRON2_RULES).tensors) == ["decoder.transformer_module.queries_features.weight"]


def test_two_tensors_for_one_place_are_refused():
    names = ("query_feat", "static_query")
    tensors = {f"sem_seg_head.predictor.{name}.weight": torch.zeros(2, 4) for name in names}
    with pytest.raises(TransferError, match="one name"):
        to_ours(tensors, DETECTRON2_RULES)


def test_a_tensor_without_a_rule_is_told_and_not_dropped():
    tensors = {"sem_seg_head.pixel_decoder.adapter_2.weight": torch.zeros(1)}
    assert to_ours(tensors, DETECTRON2_RULES).unknown == ("sem_seg_head.pixel_decoder.adapter_2.weight",)


def test_a_tensor_that_cannot_be_cut_and_a_missing_part_are_refused():
    name = "sem_seg_head.predictor.transformer_self_attention_layers.0.self_attn.in_proj_bias"
    with pytest.raises(TransferError, match="3 equal parts"):
        to_ours({name: torch.zeros(4)}, DETECTRON2_RULES)
    parts = dict(to_ours({name: torch.zeros(3)}, DETECTRON2_RULES).tensors)
    del parts["decoder.transformer_module.decoder.layers.0.self_attn.v_proj.bias"]
    with pytest.raises(TransferError, match=r"v_proj\.bias"):
        to_original(parts, DETECTRON2_RULES)


def test_a_tensor_of_ours_without_an_original_name_is_refused():
    with pytest.raises(TransferError, match="odd"):
        to_original({"decoder.odd": torch.zeros(1)}, DETECTRON2_RULES)


def test_the_names_of_transformers_own_model_lead_to_ours_and_back():
    from transformers import Mask2FormerConfig, SwinConfig
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerForUniversalSegmentation

    swin = SwinConfig(depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], embed_dim=8, image_size=64, window_size=2)
    swin.out_features = ["stage1", "stage2", "stage3", "stage4"]
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, hidden_dim=32, mask_feature_size=16, num_attention_heads=4,
        num_queries=7, encoder_layers=2, decoder_layers=4, encoder_feedforward_dim=24, dim_feedforward=40,
    )  # fmt: skip
    theirs = Mask2FormerForUniversalSegmentation(config).state_dict()
    renamed = to_ours(theirs, DECODER_RULES)
    assert all(key.startswith(("model.pixel_level_module.encoder.", "class_", "criterion.")) for key in renamed.unknown)
    sizes = DecoderSizes(
        width=32, mask_width=16, heads=4, queries=7, encoder_layers=2, decoder_layers=3, encoder_ffn=24, decoder_ffn=40
    )
    assert decoder_sizes(renamed.tensors) == sizes
    assert renamed.tensors.keys() == MaskDecoder((8, 16, 32, 64), sizes).state_dict(prefix="decoder.").keys()
    back = to_original(renamed.tensors, DECODER_RULES)
    assert back.keys() == theirs.keys() - set(renamed.unknown)


def test_sizes_of_half_a_decoder_are_refused():
    tensors = MaskDecoder((8, 16, 32, 64), DecoderSizes(width=32, heads=4)).state_dict(prefix="decoder.")
    del tensors["decoder.transformer_module.queries_features.weight"]
    with pytest.raises(TransferError, match="queries_features"):
        decoder_sizes(tensors)
