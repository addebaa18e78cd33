"""Taylor scores against autograd on the written formula."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.criteria.taylor import TAYLOR

LAYERS = ("conv1", "conv2", "proj")


def losses(tower: nn.Module, batch: Tensor) -> list[Tensor]:
    """-log of the share of an image's own embedding, at temperature 0.07, for every image and position of a batch."""
    embedding = F.normalize(tower(batch), dim=-1)
    fixed = embedding.detach()
    terms = []
    for image in range(embedding.shape[0]):
        for position in range(embedding.shape[1]):
            cosines = torch.stack([embedding[image, position] @ other[position] for other in fixed]) / 0.07
            terms.append(cosines.exp().sum().log() - cosines[image])
    return terms


def reference(tower: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    weights = [tower.get_submodule(layer).weight for layer in LAYERS]
    loss = torch.stack([term for batch in batches for term in losses(tower, batch)]).mean()
    gradients = torch.autograd.grad(loss, weights)
    return {layer: (w * g).abs().detach() for layer, w, g in zip(LAYERS, weights, gradients, strict=True)}


def test_scores_are_weight_times_gradient_of_instance_discrimination(tower, images, evidence_of):
    for sizes in ((7,), (4, 3), (2, 2, 3)):
        batches = list(images.split(sizes))
        scores = TAYLOR.score(evidence_of(tower, batches))
        for layer, wanted in reference(tower, batches).items():
            assert scores[layer].dtype == torch.float32 and wanted.any()
            torch.testing.assert_close(scores[layer], wanted.float(), rtol=1e-5, atol=0)


def test_an_image_alone_is_passed_over(tower, images, evidence_of):
    scores = TAYLOR.score(evidence_of(tower, [images[:4], images[4:5]]))
    for layer, wanted in reference(tower, [images[:4]]).items():
        torch.testing.assert_close(scores[layer], wanted.float(), rtol=1e-5, atol=0)


def test_one_image_cannot_be_told_from_others(tower, images, evidence_of):
    with pytest.raises(OptionError, match=r"^criterion taylor tells images apart: .*; add images, or choose fisher$"):
        TAYLOR.score(evidence_of(tower, [images[:1]]))
    assert all(parameter.grad is None for parameter in tower.parameters())
