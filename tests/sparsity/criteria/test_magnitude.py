"""|w|, plain and with BatchNorm folded in, without looking at images."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from opentrans_cli.sparsity.criteria.base import Evidence
from opentrans_cli.sparsity.criteria.magnitude import FOLDED, MAGNITUDE


def test_magnitude_is_the_absolute_value_of_every_weight(tower, images, evidence_of):
    scores = MAGNITUDE.score(evidence_of(tower, [images]))
    assert list(scores) == ["conv1", "conv2", "proj"]
    for layer, score in scores.items():
        weight = tower.get_submodule(layer).weight.detach()
        assert torch.equal(torch.from_numpy(score), torch.where(weight < 0, -weight, weight))
        assert not np.shares_memory(score, weight.numpy())


def test_the_parts_of_a_packed_attention_are_scored_apart():
    attention = torch.nn.MultiheadAttention(4, 2)
    layers = ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj")
    tower = torch.nn.ModuleDict({"attn": attention})
    scores = MAGNITUDE.score(Evidence(tower, layers, lambda images: images))
    packed = torch.from_numpy(np.concatenate([scores[layer] for layer in layers[:3]]))
    assert torch.equal(packed, attention.in_proj_weight.detach().abs())
    assert torch.equal(torch.from_numpy(scores["attn.out_proj"]), attention.out_proj.weight.detach().abs())


def test_folded_scores_are_the_magnitudes_of_torch_s_own_folding(tower, images, evidence_of):
    tower.bn1.weight.data[1] *= -1
    scores = FOLDED.score(evidence_of(tower, [images]))
    for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
        folded = nn.utils.fusion.fuse_conv_bn_eval(tower.get_submodule(conv), tower.get_submodule(norm))
        torch.testing.assert_close(torch.from_numpy(scores[conv]), folded.weight.detach().abs())
    assert torch.equal(
        torch.from_numpy(scores["proj"]), tower.proj.weight.detach().abs()
    )  # there is no BatchNorm behind it


def test_moving_a_scale_from_the_weights_into_the_batchnorm_changes_no_folded_score(tower, images, evidence_of):
    moved, by = copy.deepcopy(tower), torch.tensor([0.1, 2.0, 7.0, 1.0]).double()
    with torch.no_grad():
        moved.conv1.weight.mul_(by.view(-1, 1, 1, 1))
        moved.bn1.running_mean.mul_(by)
        moved.bn1.weight.div_(by)
    torch.testing.assert_close(moved(images), tower(images))
    scores, others = (FOLDED.score(evidence_of(one, [images]))["conv1"] for one in (tower, moved))
    np.testing.assert_allclose(others, scores, rtol=1e-7)
