"""CLIP's own dense embedding, read out without training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.maskclip import MASKCLIP


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_scores_are_hundred_times_the_cosine_of_projected_features(tower, text, output_stride):
    segmentor = MASKCLIP.build(tower(), {"output_stride": output_stride}).eval()
    images = torch.randn(1, 3, 64, 64)
    trunk = segmentor.backbone
    x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(trunk.stem(images)))))
    assert x.shape[-1] == 64 // output_stride
    pool = trunk.attnpool
    embedding = pool.c_proj(pool.v_proj(x.flatten(2).transpose(1, 2)))  # (1, cells, D)
    cosine = (F.normalize(embedding, dim=2) @ text.T).transpose(1, 2).reshape(1, 5, *x.shape[2:])
    expected = F.interpolate(100 * cosine, size=(64, 64), mode="bilinear")
    torch.testing.assert_close(segmentor(images, ClassText.one_each(text)), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_embeddings_have_the_output_stride(tower, output_stride):
    segmentor = MASKCLIP.build(tower(), {"output_stride": output_stride}).eval()
    assert segmentor.embed(torch.randn(1, 3, 64, 96)).shape == (1, 16, 64 // output_stride, 96 // output_stride)


def test_nothing_but_the_tower_could_be_trained(tower):
    segmentor = MASKCLIP.build(tower())
    assert not MASKCLIP.trainable
    assert all(name.startswith("backbone.") for name, p in segmentor.named_parameters() if p.requires_grad)


def test_the_whole_tower_is_moved(tower):
    assert all(match.target == f"backbone.{match.source}" for match in MASKCLIP.map_keys(tower()))
