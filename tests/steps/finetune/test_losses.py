"""Cross-entropy counts labelled pixels and nothing else."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.steps.finetune.loss import pixel_cross_entropy


def test_loss_is_the_mean_over_labelled_pixels_of_the_whole_batch():
    scores, labels = torch.randn(2, 3, 2, 2), torch.tensor([[[0, 255], [2, 1]], [[255, 255], [255, 1]]])
    terms = [
        -scores[b, :, y, x].log_softmax(0)[labels[b, y, x]]
        for b in range(2)
        for y in range(2)
        for x in range(2)
        if labels[b, y, x] != 255
    ]
    assert pixel_cross_entropy(scores, labels, 255).item() == pytest.approx((sum(terms) / 4).item())


def test_a_batch_without_labels_costs_nothing_and_teaches_nothing():
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(scores, torch.full((1, 2, 2), 65535), 65535)
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


def test_scores_of_ignored_pixels_do_not_matter():
    scores, labels = torch.randn(1, 3, 1, 2), torch.tensor([[[1, 255]]])
    other = scores.clone()
    other[..., 1] = 1e4
    assert pixel_cross_entropy(scores, labels, 255) == pixel_cross_entropy(other, labels, 255)


def test_the_parts_of_a_batch_add_up_to_the_whole():
    scores, labels = torch.randn(3, 4, 5, 5), torch.randint(-1, 4, (3, 5, 5))
    labels[1] = -1
    parts = [pixel_cross_entropy(scores[i], labels[i], -1, labelled=(labels >= 0).sum()) for i in ([2], [0, 1])]
    torch.testing.assert_close(sum(parts), pixel_cross_entropy(scores, labels, -1))
