"""Channel masks: the family's nearest sparsity, nested, whole units, and a masked tower equal to the compact one."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.channels import compact_tower, kept_channels, widths
from opentrans_cli.clip.layers import candidates, layer_weights
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import MaskError, OptionError
from opentrans_cli.sparsity.control import random_scores
from opentrans_cli.sparsity.masking import apply_masks
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.patterns.channel import Channel
from opentrans_cli.sparsity.selection import sparsity_of

TEXT = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
RESNET = {"image_size": 32, "layers": [2, 1, 1, 1], "width": 8, "patch_size": None}
VIT = {"image_size": 16, "layers": 2, "width": 64, "patch_size": 8, "mlp_ratio": 0.5}
SPARSITIES = st.floats(0, 1, exclude_max=True)


def config(vision: dict[str, Any]) -> dict[str, Any]:
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}


def built(vision: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build_clip(config(vision)).visual


RESNET_PATTERN = pattern_for("channel", config(RESNET))
VIT_PATTERN = pattern_for("channel", config(VIT))
both = pytest.mark.parametrize("pattern", [RESNET_PATTERN, VIT_PATTERN], ids=["resnet", "vit"])


def scores_of(pattern: Any, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    return random_scores({layer: pattern.shapes[f"{layer}.weight"] for layer in pattern.layers(())}, seed)


@both
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 99), sparsity=SPARSITIES)
def test_the_achieved_sparsity_is_the_nearest_the_family_has(pattern, seed, sparsity):
    masks = pattern.masks(scores_of(pattern, seed), sparsity)
    width, _ = kept_channels(pattern.groups, masks)
    achieved = sparsity_of(masks)
    assert achieved == pytest.approx(pattern.sparsity_at(width), abs=1e-12)
    others = [pattern.sparsity_at(other) for other in widths(pattern.groups)]
    assert (width == widths(pattern.groups)[-1]) == (sparsity > sum(others[-2:]) / 2)
    assert abs(achieved - sparsity) <= min(abs(other - sparsity) for other in others) + 1e-12


def test_half_way_between_two_widths_the_wider_is_taken():
    masks = VIT_PATTERN.masks(scores_of(VIT_PATTERN, 0), 1 / 64)
    assert kept_channels(VIT_PATTERN.groups, masks)[0] == 32


@both
def test_channels_of_the_lowest_mean_score_go_and_of_equal_ones_the_last(pattern):
    equal = {layer: np.ones_like(score) for layer, score in scores_of(pattern, 0).items()}
    for number, lift in ((0, 0.0), (1, 0.5)):
        scores = {layer: score.copy() for layer, score in equal.items()}
        group = next(group for group in pattern.groups if group.unit == 1)
        maker = group.members[0]
        np.moveaxis(scores[maker.tensor.removesuffix(".weight")], maker.axis, 0)[-1] += lift
        _, kept = kept_channels(pattern.groups, pattern.masks(scores, 0.5))
        count = int(kept[group.name].sum())
        expected = [*range(count - number), *([group.size - 1] * number)]
        assert kept[group.name].nonzero()[0].tolist() == expected


def test_what_reads_a_channel_counts_as_much_as_what_makes_it():
    scores = {layer: np.zeros_like(score) for layer, score in scores_of(RESNET_PATTERN, 0).items()}
    scores["layer1.0.conv3"][:, 5] = 1
    _, kept = kept_channels(RESNET_PATTERN.groups, RESNET_PATTERN.masks(scores, 0.9))
    assert kept["layer1.0.conv2"].nonzero()[0].tolist() == [0, 5]


def test_heads_of_the_attention_pool_go_as_a_whole():
    scores = scores_of(RESNET_PATTERN, 3)
    scores["attnpool.v_proj"][64:128] += 1
    _, kept = kept_channels(RESNET_PATTERN.groups, RESNET_PATTERN.masks(scores, 0.9))
    heads = kept["attnpool"].reshape(-1, 64)
    assert np.array_equal(heads.any(1), heads.all(1)) and bool(heads[1].all())


def test_what_the_previous_round_removed_does_not_count_in_the_scores_of_what_is_left():
    pattern = RESNET_PATTERN
    before = pattern.masks(scores_of(pattern, 0), 0.5)
    scores = scores_of(pattern, 1)
    noise = np.random.default_rng(0)
    noisy = {layer: score + 1e3 * noise.random(score.shape) * ~before[layer] for layer, score in scores.items()}
    one, other = (pattern.masks(given, 0.8, inside=before) for given in (scores, noisy))
    assert all(np.array_equal(one[layer], other[layer]) for layer in one)


@pytest.mark.parametrize("vision", [RESNET, VIT], ids=["resnet", "vit"])
def test_with_its_coupled_parameters_at_zero_a_masked_tower_is_the_compact_one(vision):
    visual = built(vision)
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    pattern = pattern_for("channel", config(vision))
    scores = {layer: weight.abs().numpy() for layer, weight in layer_weights(visual, pattern.layers(())).items()}
    masks = pattern.masks(scores, 0.6)
    apply_masks(visual, masks)
    compact = compact_tower(visual, masks, config(vision)).visual
    held = copy.deepcopy(visual)
    coupled = pattern.coupled(masks)
    with torch.no_grad():
        for name, mask in coupled.items():
            parameter = held.get_parameter(name)
            assert mask.shape == parameter.shape and mask.dtype == np.bool_ and not mask.all()
            parameter.mul_(torch.from_numpy(mask))
    images = torch.randn(2, 3, vision["image_size"], vision["image_size"])
    with torch.inference_mode():
        torch.testing.assert_close(held(images), visual(images), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(held(images), compact(images), atol=1e-5, rtol=1e-5)
        if vision is RESNET:
            feature = held.layer1(held.stem(images))
            gone = torch.from_numpy(~kept_channels(pattern.groups, masks)[1]["layer1"])
            assert (
                bool(gone.any())
                and not bool(feature[:, gone].any())
                and bool(visual.layer1(visual.stem(images))[:, gone].any())
            )


def test_coupled_parameters_are_all_that_belongs_to_channels_but_weights_and_statistics():
    pattern = RESNET_PATTERN
    names = pattern.coupled(pattern.masks(scores_of(pattern, 0), 0.5)).keys()
    visual = built(RESNET)
    parameters = {name for name, _ in visual.named_parameters()}
    assert names == parameters - {f"{layer}.weight" for layer in pattern.layers(())} - {"attnpool.c_proj.bias"}


def test_every_layer_of_a_resnet_is_pruned_whatever_was_chosen():
    names = tuple(found.name for found in candidates(built(RESNET)))
    for chosen in ((), ("layer1.0.conv1",), names):
        assert RESNET_PATTERN.layers(chosen) == names
    assert VIT_PATTERN.layers(()) == tuple(
        f"transformer.resblocks.{number}.mlp.{leaf}" for number in (0, 1) for leaf in ("c_fc", "c_proj")
    )
    assert RESNET_PATTERN.problem("layer1.0.conv1", (8, 8, 1, 1)) is None
    assert VIT_PATTERN.problem("transformer.resblocks.0.attn.q_proj", (64, 64)) is not None


def test_the_embedded_tower_has_eight_widths():
    pattern = pattern_for("channel", load_clip("tiny").model_cfg)
    assert isinstance(pattern, Channel) and (pattern.name, pattern.sparsity) == ("channel", None)
    assert widths(pattern.groups) == (16, 14, 12, 10, 8, 6, 4, 2)


def test_a_tower_of_another_kind_is_refused():
    with pytest.raises(OptionError, match="pattern channel knows ResNet and ViT towers"):
        pattern_for("channel", config({"timm_model_name": "convnext_base"}))


def test_going_back_to_a_wider_tower_is_refused_and_staying_is_not():
    scores = scores_of(RESNET_PATTERN, 0)
    before = RESNET_PATTERN.masks(scores, 0.5)
    again = RESNET_PATTERN.masks(scores, 0.5, inside=before)
    assert all(np.array_equal(again[layer], before[layer]) for layer in before)
    with pytest.raises(OptionError, match=r"below what is already pruned: 0\.1, conv1 would keep 4 channels and has 3"):
        RESNET_PATTERN.masks(scores, 0.1, inside=before)


def test_scores_and_previous_masks_that_do_not_match_are_refused_by_layer():
    scores = scores_of(VIT_PATTERN, 0)
    first, last = min(scores), max(scores)
    full = {layer: np.ones(score.shape, np.bool_) for layer, score in scores.items()}
    for wrong, inside, told in (
        ({first: scores[first]}, None, "scores do not cover the pattern's layers"),
        ({**scores, "odd": scores[first]}, None, "cover the pattern's layers: odd"),
        ({**scores, last: scores[last] * math.nan}, None, f"NaN: {last}"),
        ({**scores, last: scores[last].T}, None, f"scores and weight differ in shape: {last}"),
        (scores, {first: full[first]}, "no mask of the previous round"),
        (scores, {**full, last: full[last].T}, f"mask and weight differ in shape: {last}"),
        (scores, {**full, last: scores[last] < 0.5}, "not pruned by whole channels"),
    ):
        with pytest.raises(MaskError, match=told):
            VIT_PATTERN.masks(wrong, 0.5, inside=inside)
