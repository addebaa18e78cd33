"""CLIP's own dense embedding, read out without training."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.maskclip import MASKCLIP


def test_scores_are_hundred_times_the_cosine_of_projected_features(tower, text):
    images = torch.randn(1, 3, 64, 64)
    for output_stride in (8, 16, 32):
        segmentor = MASKCLIP.build(tower(), {"output_stride": output_stride}).eval()
        trunk = segmentor.backbone
        x = trunk.layer4(trunk.layer3(trunk.layer2(trunk.layer1(trunk.stem(images)))))
        pool = trunk.attnpool
        embedding = pool.c_proj(pool.v_proj(x.flatten(2).transpose(1, 2)))  # (1, cells, D)
        cosine = (F.normalize(embedding, dim=2) @ text.T).transpose(1, 2).reshape(1, 5, *x.shape[2:])
        expected = F.interpolate(100 * cosine, size=(64, 64), mode="bilinear")
        torch.testing.assert_close(segmentor(images, ClassText.one_each(text)), expected, atol=1e-4, rtol=1e-4)
        grid = (64 // output_stride, 96 // output_stride)
        assert segmentor.embed(torch.randn(1, 3, 64, 96)).shape == (1, 16, *grid)


def test_the_whole_tower_is_moved_and_nothing_else_could_be_trained(tower):
    assert not MASKCLIP.trainable
    segmentor = MASKCLIP.build(tower())
    assert all(name.startswith("backbone.") for name, p in segmentor.named_parameters() if p.requires_grad)
    assert all(match.target == f"backbone.{match.source}" for match in MASKCLIP.map_keys(tower()))
