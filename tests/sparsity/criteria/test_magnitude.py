"""|w|, without looking at images."""

from __future__ import annotations

import torch

from opentrans_cli.sparsity.criteria.base import Evidence
from opentrans_cli.sparsity.criteria.magnitude import MAGNITUDE


def test_magnitude_is_the_absolute_value_of_every_weight(tower, images, evidence_of):
    scores = MAGNITUDE.score(evidence_of(tower, [images]))
    assert list(scores) == ["conv1", "conv2", "proj"]
    for layer, score in scores.items():
        weight = tower.get_submodule(layer).weight
        assert torch.equal(score, torch.where(weight < 0, -weight, weight)) and score.dtype == weight.dtype
        assert not score.requires_grad and score.data_ptr() != weight.data_ptr()


def test_magnitude_needs_no_images():
    linear = torch.nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[-2.0, 0.5], [0.0, -0.25]])

    def readout(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("looked at the tower's output")

    scores = MAGNITUDE.score(Evidence(torch.nn.Sequential(linear), ("0",), readout))
    assert scores["0"].tolist() == [[2.0, 0.5], [0.0, 0.25]]
    assert not MAGNITUDE.needs_images


def test_the_parts_of_a_packed_attention_are_scored_apart():
    attention = torch.nn.MultiheadAttention(4, 2)
    layers = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj")
    tower = torch.nn.ModuleDict({"attn": attention})
    scores = MAGNITUDE.score(Evidence(tower, layers, lambda images: images))
    assert torch.equal(torch.cat([scores[layer] for layer in layers[:3]]), attention.in_proj_weight.detach().abs())
    assert torch.equal(scores["attn.out_proj"], attention.out_proj.weight.detach().abs())
