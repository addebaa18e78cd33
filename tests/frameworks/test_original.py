"""Checkpoints in the names of their own code: every tensor has its place, and what does not fit is told in one line."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from opentrans_cli.errors import TransferError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.keys import to_original, to_ours
from opentrans_cli.frameworks.original import LINEAGES, build_original, load_original
from opentrans_cli.frameworks.original_names import (
    FCCLIP_RULES,
    HAN_RULES,
    HUGGINGFACE_RULES,
    MASK2FORMER_RULES,
    OTHER_TRUNK,
)

SMALL = {"queries": 6, "width": 32, "encoder_layers": 1, "decoder_layers": 3}
RULES = {"fcclip": FCCLIP_RULES, "han": HAN_RULES, "mask2former": MASK2FORMER_RULES}


def published(reference: Path, name: str) -> dict[str, Tensor]:
    """A whole checkpoint with the values of the parity vectors."""
    fill = runpy.run_path(str(reference / "parity" / "weights.py"))["fill"]
    shapes = json.loads((reference / name).read_text())
    return {key: torch.from_numpy(fill(key, tuple(shape), 0)) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("framework", "name", "unneeded"),
    [
        ("fcclip", "fcclip_r50_full.json", {"weights of the loss"}),
        ("han", "han_r50_eval.json", {"weights of the loss"}),
    ],
)
def test_a_published_checkpoint_becomes_a_segmentor_without_losing_a_tensor(reference, framework, name, unneeded):
    tensors = published(reference, name)
    original = load_original(framework, tensors)
    assert set(original.unneeded) == unneeded
    assert original.lineage == next(iter(LINEAGES[framework]))
    segmentor = build_original(original)
    state = segmentor.state_dict()
    assert state.keys() == original.tensors.keys()
    assert all(torch.equal(state[key], original.tensors[key]) for key in state)
    assert not any(tensor.is_meta for tensor in [*segmentor.parameters(), *segmentor.buffers()])
    ours = {**original.tensors, **{f"text.{key}": tensor for key, tensor in original.text.items()}}
    back = to_original(ours, RULES[framework])
    left_out = {key for keys in original.unneeded.values() for key in keys}
    assert back.keys() == tensors.keys() - left_out
    assert all(torch.equal(back[key], tensors[key]) for key in back)


def test_what_only_the_training_of_han_needs_is_left_out_by_rule(reference: Path):
    shapes = json.loads((reference / "han_r50_train_kd.json").read_text())
    tensors = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    original = load_original("han", tensors)
    used = {key: torch.empty(shape, device="meta") for key, shape in shapes.items() if key in
            json.loads((reference / "han_r50_eval.json").read_text())}  # fmt: skip
    assert original.tensors.keys() == load_original("han", used).tensors.keys()
    assert {"teacher", "projections to the teacher", "weights of the loss"} <= original.unneeded.keys()
    assert sum(map(len, original.unneeded.values())) == len(shapes) - len(used) + 1


@pytest.fixture
def made(tower, text):
    """Makes a small segmentor with its checkpoint by original names."""

    def make(framework: str, **options):
        torch.manual_seed(1)
        segmentor = FRAMEWORKS.load(framework).build(tower(), {**SMALL, **options}).eval()
        published = framework != "mask2former" or "classes" in options  # comparing with text is our own addition
        return segmentor, to_original(segmentor.state_dict(), RULES[framework]) if published else {}

    return make


@pytest.mark.parametrize(("framework", "options"), [("fcclip", {}), ("han", {}), ("mask2former", {"classes": 5})])
def test_a_small_checkpoint_of_any_framework_says_the_same_again(made, images, text, framework, options):
    segmentor, tensors = made(framework, **options)
    original = load_original(framework, {**tensors, "criterion.empty_weight": torch.ones(6)})
    assert dict(original.options) == {**SMALL, **options}
    again = build_original(original)
    words = ClassText.one_each(text)
    torch.testing.assert_close(again(images, words), segmentor(images, words))
    assert not again.training


@pytest.mark.parametrize("framework", ["fcclip", "han", "mask2former"])
def test_our_own_names_are_known_too(made, images, text, framework):
    segmentor, _ = made(framework)
    original = load_original(framework, segmentor.state_dict())
    assert original.lineage == "ours"
    words = ClassText.one_each(text)
    torch.testing.assert_close(build_original(original)(images, words), segmentor(images, words))


def test_a_head_on_another_trunk_is_put_on_the_tower_that_is_given(made, tower, images, text):
    segmentor, tensors = made("mask2former", classes=5)
    foreign = {key: tensor for key, tensor in tensors.items() if not key.startswith("backbone.")}
    foreign |= {"backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7), "backbone.res2.0.conv1.weight": torch.zeros(1)}
    original = load_original("mask2former", foreign)
    assert len(original.unneeded[OTHER_TRUNK]) == 2
    with pytest.raises(TransferError, match="no CLIP tower"):
        build_original(original)
    words = ClassText.one_each(text)
    torch.testing.assert_close(build_original(original, tower())(images, words), segmentor(images, words))


def test_a_checkpoint_of_transformers_loads_its_head(made, tower):
    segmentor, _ = made("mask2former", classes=5)
    head = {key: value for key, value in segmentor.state_dict().items() if not key.startswith("backbone.")}
    tensors = to_original(head, HUGGINGFACE_RULES)
    tensors |= {"model.pixel_level_module.encoder.embeddings.norm.weight": torch.zeros(1)}
    tensors |= {"criterion.empty_weight": torch.ones(6)}
    assert not to_ours(tensors, (*HUGGINGFACE_RULES,)).unknown[1:]
    original = load_original("mask2former", tensors)
    assert original.lineage == "Mask2Former of transformers"
    built = build_original(original, tower()).state_dict()
    assert all(torch.equal(built[key], head[key]) for key in head)


def test_frozen_batchnorms_without_counters_load(made):
    _, tensors = made("han")
    counted = {key: tensor for key, tensor in tensors.items() if "num_batches_tracked" not in key}
    assert len(counted) < len(tensors)
    state = build_original(load_original("han", counted)).state_dict()
    assert all(value == 0 for key, value in state.items() if "num_batches_tracked" in key)


def test_a_wall_of_unknown_tensors_is_one_line_with_counts_and_the_right_framework(made):
    _, tensors = made("fcclip")
    with pytest.raises(TransferError) as error:
        load_original("han", tensors)
    message = str(error.value)
    assert message.startswith("not a checkpoint of han, as far as known: ")
    assert message.endswith("; it is one of fcclip") and "\n" not in message and len(message) < 700
    odd = {f"blocks.{n}.weight": torch.zeros(1) for n in range(300)}
    with pytest.raises(TransferError, match=r"300 unknown \('blocks\.0\.weight', 'blocks\.1\.weight', \.\.\.\)"):
        load_original("fcclip", {**tensors, **odd})


def test_missing_tensors_and_other_shapes_are_told_by_group(made):
    _, tensors = made("han")
    for key in [key for key in tensors if ".norm." in key and "self_attention" in key]:
        del tensors[key]
    tensors["sem_seg_head.predictor.query_embed.weight"] = torch.zeros(7, 32)
    with pytest.raises(TransferError) as error:
        build_original(load_original("han", tensors))
    message = str(error.value)
    assert "6 missing ('decoder.transformer_module.decoder.layers.0.self_attn_layer_norm" in message
    assert "1 of another shape ('decoder.transformer_module.queries_embedder.weight')" in message


def test_a_framework_without_known_checkpoints_is_refused():
    with pytest.raises(TransferError, match="maskclip"):
        load_original("maskclip", {})
