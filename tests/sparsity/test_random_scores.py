"""Random scores."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.sparsity.control import random_scores


def test_random_scores_are_uniform_and_shaped():
    scores = random_scores({"conv": (40, 50, 3, 3)}, 0)["conv"]
    assert scores.shape == (40, 50, 3, 3) and scores.dtype == torch.float64
    assert scores.min() >= 0 and scores.max() < 1
    counts = torch.histc(scores, bins=10, min=0, max=1) / scores.numel()
    torch.testing.assert_close(counts, torch.full((10,), 0.1).double(), atol=0.01, rtol=0)


def test_random_scores_are_the_same_on_every_platform():
    assert random_scores({"layer1.0.conv1": (3,)}, 7)["layer1.0.conv1"].tolist() == [
        0.7462303924511778,
        0.6820058166775435,
        0.7881432419464143,
    ]


def test_random_scores_depend_on_seed_and_name_alone():
    alone = random_scores({"b": (5,)}, 0)["b"]
    among = random_scores({"a": (9,), "b": (5,)}, 0)["b"]
    assert torch.equal(alone, among)
    assert not torch.equal(alone, random_scores({"b": (5,)}, 1)["b"])
    assert not torch.equal(alone, random_scores({"c": (5,)}, 0)["c"])


@pytest.mark.parametrize("shape", [(), (0, 3), (1,)])
def test_tiny_shapes_are_scored(shape):
    assert random_scores({"a": shape}, 0)["a"].shape == shape
