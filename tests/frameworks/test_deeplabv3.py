"""The trained framework: starts from CLIP, uses all its branches, and trains on a single image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.features import dense_embedding, stage_features
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.deeplabv3 import DEEPLABV3, DeepLabV3, DeepLabV3Options

RN50 = {
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}


def test_an_untrained_segmentor_says_what_clip_says_at_every_output_stride(tower, text, images):
    for output_stride, rates in {32: [3, 6, 9], 16: [6, 12, 18], 8: [12, 24, 36]}.items():
        segmentor = DEEPLABV3.build(tower(), {"output_stride": output_stride}).eval()
        features = stage_features(segmentor.backbone, images)
        dense = F.normalize(dense_embedding(segmentor.backbone, features["layer4"]), dim=1)
        fine = F.interpolate(dense, size=features["layer1"].shape[2:], mode="bilinear")
        cosine = F.conv2d(F.normalize(fine, dim=1), text[:, :, None, None])
        expected = F.interpolate(30 * cosine, size=images.shape[2:], mode="bilinear")
        torch.testing.assert_close(segmentor(images, ClassText.one_each(text)), expected, atol=1e-4, rtol=1e-4)
        assert segmentor.embed(torch.randn(1, 3, 64, 96)).shape == (1, 16, 16, 24)
        # The pyramid's rates span the same pixels at every stride.
        assert [branch[0].dilation[0] for branch in segmentor.pyramid.branches] == [1, *rates]


def test_every_branch_learns_also_from_one_small_image_and_the_residual_head_starts_at_zero(tower, text):
    for residual in (True, False):
        segmentor = DEEPLABV3.build(tower(), {"clip_residual": residual}).train()
        assert residual == (not segmentor.embedding.weight.any())
        segmentor(torch.randn(1, 3, 64, 64), ClassText.one_each(text)).square().mean().backward()
        for name, parameter in segmentor.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
                assert residual or parameter.grad.any(), name
        assert segmentor.embedding.weight.grad.any()


def test_of_the_attention_pool_only_two_fixed_projections_stay_or_none(tower):
    kept = {f"backbone.attnpool.{part}.{kind}" for part in ("v_proj", "c_proj") for kind in ("weight", "bias")}
    residual = DEEPLABV3.build(tower())
    pool = {name: p for name, p in residual.named_parameters() if "attnpool" in name}
    assert pool.keys() == kept and not any(p.requires_grad for p in pool.values())
    matches = DEEPLABV3.map_keys(tower(), {"clip_residual": False})
    left_out = {match.source for match in matches if match.target is None}
    assert left_out == {key for key in tower().state_dict() if key.startswith("attnpool.")}
    built = DEEPLABV3.build(tower(), {"clip_residual": False}).state_dict()
    assert {match.target for match in matches} - {None} == {key for key in built if key.startswith("backbone.")}


def test_rn50_gets_the_widths_of_the_paper_and_a_narrow_tower_a_narrow_head(tower):
    with torch.device("meta"):
        segmentor = DeepLabV3(build_clip(RN50).visual, DeepLabV3Options())
    assert segmentor.pyramid.branches[1][0].weight.shape == (256, 2048, 3, 3)
    assert segmentor.pyramid.project[0].weight.shape == (256, 5 * 256, 1, 1)
    assert segmentor.low_level[0].weight.shape == (48, 256, 1, 1)
    assert segmentor.decoder[0].weight.shape == (256, 304, 3, 3)
    assert segmentor.embedding.weight.shape == (1024, 256, 1, 1)
    assert DEEPLABV3.build(tower()).embedding.in_channels == 256 // 8
    assert DEEPLABV3.build(tower(), {"width": 48}).embedding.in_channels == 48
    for wrong in ({"width": 15}, {"dropout": 1.0}, {"dropout": -0.1}):
        with pytest.raises(OptionError, match="give"):
            DEEPLABV3.options(wrong)


def test_the_head_is_a_function_of_the_seed(tower):
    states = []
    for _ in range(2):
        visual = tower()
        torch.manual_seed(7)
        states.append(DEEPLABV3.build(visual).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
