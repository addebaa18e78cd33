"""What every criterion of the table must do: a tower, and images for those that need them -> scores of its weights."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import layer_weights, prunable_layers
from opentrans_cli.clip.source import load_clip
from opentrans_cli.sparsity.criteria import CRITERIA
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence

every_criterion = pytest.mark.parametrize("name", CRITERIA.names())


@pytest.fixture
def towers() -> list[tuple[nn.Module, tuple[str, ...], int]]:
    """A ResNet and a ViT: tower, layers and image size."""
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
    vit = {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 8}
    torch.manual_seed(0)
    visuals = [
        (load_clip("tiny").model.visual, 64),
        (build_clip({"embed_dim": 16, "vision_cfg": vit, "text_cfg": text}).visual, 16),
    ]
    return [(visual, prunable_layers(visual), size) for visual, size in visuals]


def evidence(visual: nn.Module, layers: tuple[str, ...], size: int, **more: Any) -> Evidence:
    """Two batches of images of noise, seen through the tower's pooled output."""
    batches = [
        (number, torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(number))) for number in (0, 1)
    ]
    return Evidence(
        visual,
        layers,
        lambda images: torch.nn.functional.normalize(visual(images), dim=-1)[:, None],
        more.pop("batches", lambda: iter(batches)),
        **more,
    )


@every_criterion
def test_a_criterion_scores_every_weight_with_a_number_of_at_least_zero(name, towers):
    criterion: Criterion = CRITERIA.load(name)
    assert criterion.name == name
    for visual, layers, size in towers:
        scores = criterion.score(evidence(visual, layers, size))
        assert list(scores) == list(layers)
        for layer, weight in layer_weights(visual, layers).items():
            score = torch.as_tensor(scores[layer])
            assert score.shape == weight.shape and score.device == weight.device and score.is_floating_point()
            assert torch.isfinite(score).all() and (score >= 0).all() and score.any() and not score.requires_grad


@every_criterion
def test_a_criterion_leaves_the_tower_as_it_was(name, towers):
    for training, (visual, layers, size) in product((True, False), towers):
        visual.train(training)
        next(visual.parameters()).requires_grad_(False)
        before = copy.deepcopy(visual.state_dict())  # with BatchNorm's statistics and their counters
        asked = [parameter.requires_grad for parameter in visual.parameters()]
        modes = [module.training for module in visual.modules()]
        CRITERIA.load(name).score(evidence(visual, layers, size))
        assert all(torch.equal(tensor, before[key]) for key, tensor in visual.state_dict().items())
        assert [module.training for module in visual.modules()] == modes
        assert [parameter.requires_grad for parameter in visual.parameters()] == asked
        assert all(parameter.grad is None for parameter in visual.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in visual.modules())


@every_criterion
def test_a_criterion_is_a_function_of_tower_images_and_seed(name, towers):
    criterion: Criterion = CRITERIA.load(name)
    for visual, layers, size in towers:
        first = criterion.score(evidence(visual, layers, size, seed=3))
        torch.rand(1)  # a step of the global generator, which has no say
        again = criterion.score(evidence(copy.deepcopy(visual).train(), layers, size, seed=3))
        assert all((first[layer] == again[layer]).all() for layer in layers)


@every_criterion
def test_a_criterion_looks_at_images_if_and_only_if_it_says_so(name, towers):
    criterion: Criterion = CRITERIA.load(name)
    visual, layers, size = towers[0]
    looked = []

    def batches() -> Any:
        looked.append(True)
        return iter([(0, torch.randn(2, 3, size, size))])

    criterion.score(evidence(visual, layers, size, batches=batches))
    assert bool(looked) == criterion.needs_images
    if not criterion.needs_images:
        assert criterion.score(evidence(visual, layers, size, batches=None)).keys() == set(layers)


@every_criterion
def test_several_processes_score_as_one(name, tower, images, evidence_of, in_two_worlds):
    criterion: Criterion = CRITERIA.load(name)
    if not criterion.needs_images:
        return
    batches = [images[:2], images[2:5], images[5:]]
    alone = criterion.score(evidence_of(tower, batches, seed=3, probes=2))
    for own in ({0, 2}, {1}, set()):
        together = in_two_worlds(criterion, tower, batches, own, seed=3, probes=2)
        for layer in alone:
            torch.testing.assert_close(together[layer], alone[layer], rtol=1e-6, atol=0)


@every_criterion
def test_a_criterion_scores_a_layer_alike_alone_and_among_others(name, towers):
    criterion: Criterion = CRITERIA.load(name)
    for visual, layers, size in towers:
        alone, among = (criterion.score(evidence(visual, some, size))[layers[3]] for some in (layers[3:4], layers))
        assert abs(alone - among).max() <= 1e-4 * among.max()
