"""Scores are cosines times a bounded scale, and resizing them equals resizing the embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from opentrans_cli.frameworks.readout import INITIAL_SCALE, CosineClassifier, resize


def test_scores_are_cosines_times_the_scale(text):
    embedding = torch.randn(2, 16, 3, 4)
    scores = CosineClassifier()(embedding, text)
    for b, s, y, x in [(0, 0, 0, 0), (1, 4, 2, 3)]:
        cosine = F.cosine_similarity(embedding[b, :, y, x], text[s], dim=0)
        assert scores[b, s, y, x].item() == pytest.approx(INITIAL_SCALE * cosine.item(), abs=1e-5)


def test_the_scale_never_exceeds_that_of_clip(text):
    embedding = text[:, :, None, None].repeat(1, 1, 2, 2)  # cosine 1 with its own text
    assert CosineClassifier(scale=1e6)(embedding, text).max().item() == pytest.approx(100)


def test_resizing_scores_equals_resizing_unit_embeddings(text):
    embedding = F.normalize(torch.randn(2, 16, 5, 7), dim=1)
    image = torch.empty(2, 3, 19, 30)
    product_first = resize(F.conv2d(embedding, text[:, :, None, None]), image)
    resize_first = F.conv2d(resize(embedding, image), text[:, :, None, None])
    torch.testing.assert_close(product_first, resize_first, atol=1e-6, rtol=1e-5)
