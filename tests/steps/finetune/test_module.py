"""What is trained: the segmentor under one name, what losses learn under others, and all of it in every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

from opentrans_cli.clip.prefix import outputs
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import MaskQueries
from opentrans_cli.steps.finetune.module import SEGMENTOR, TrainedModule
from opentrans_cli.steps.finetune.region_kd import Regions

MASKS = ("han", "mask2former", "fcclip")

Case = Callable[..., Any]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("framework", ["deeplabv3", *MASKS])
def test_every_trained_parameter_has_a_gradient_after_one_step(framework: str, labelled: bool, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=2.0, grounding=framework in MASKS)
    images, label_maps, *rest = case.batch
    batch = (images, label_maps if labelled else torch.full_like(label_maps, -1), *rest)
    loss = case.loss(case.trained.train())
    terms = loss(batch, loss.whole(batch))
    torch.stack([*terms.values()]).sum().backward()
    trained = {name: p for name, p in case.trained.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(bool(p.grad.isfinite().all()) for p in trained.values())
    if labelled:
        assert all(bool(p.grad.any()) for name, p in trained.items() if not name.startswith(SEGMENTOR))


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_what_losses_learn_stays_out_of_the_segmentor(framework: str, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=2.0, grounding=framework in MASKS)
    inside = {name.removeprefix(SEGMENTOR) for name in case.trained.state_dict() if name.startswith(SEGMENTOR)}
    assert inside == case.built.module.state_dict().keys()
    beside = {name.split(".")[0] for name in case.trained.state_dict() if not name.startswith(SEGMENTOR)}
    assert beside == {"regions"} | ({"grounding"} if framework in MASKS else set())
    assert len(case.trained.regions.projections) == (1 if framework == "deeplabv3" else 3)


def test_without_further_losses_nothing_is_learned_beside_the_segmentor(loss_case: Case) -> None:
    trained = loss_case("han").trained
    assert all(name.startswith(SEGMENTOR) for name in trained.state_dict())


@pytest.mark.parametrize("framework", ["deeplabv3", "han"])
def test_cached_features_give_what_their_pixels_give(framework: str, loss_case: Case) -> None:
    case = loss_case(framework)
    trained, images = case.trained.eval(), case.batch[0]
    with torch.no_grad():
        features = outputs(trained.segmentor.backbone, images, "layer2.0")
        whole = trained(images)
        trained.prefix_end = "layer2.0"
        replayed = trained(torch.zeros_like(images), *features)
    leaves = [tree_leaves(found) for found in (replayed, whole)]
    assert all(one is other is None or torch.equal(one, other) for one, other in zip(*leaves, strict=True))


def test_scores_are_the_same_with_and_without_distillation(loss_case: Case) -> None:
    plain, taught = loss_case("deeplabv3"), loss_case("deeplabv3", kd_weight=1.0)
    images, label_maps, *_ = plain.batch
    none = Regions(*torch.zeros(2, 0, dtype=torch.int64))
    with torch.no_grad():
        scores = plain.trained.eval()(images).scores
        again = taught.trained.eval()(images, label_maps=label_maps, regions=none)
    assert torch.equal(scores, again.scores)
    assert again.students[0].shape == (0, 64)


@pytest.mark.parametrize("framework", MASKS)
def test_queries_come_with_what_each_layer_says_of_them(framework: str, loss_case: Case) -> None:
    case = loss_case(framework, kd_weight=1.0)
    queries = case.trained.train()(case.batch[0]).queries
    assert isinstance(queries, MaskQueries)
    assert len(queries.states) == len(queries.embeddings) == 1 + len(queries.auxiliary) == 3
    for embedding in queries.embeddings:
        assert embedding.shape[-1] == case.trained.text.embeddings.shape[1]
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(embedding.shape[:2]))


def test_queries_of_fixed_classes_cannot_be_grounded(loss_case: Case) -> None:
    case = loss_case("mask2former", classes=3)
    with pytest.raises(OptionError, match=r"fixed list of classes .*--grounding-weight; leave it out"):
        TrainedModule(case.built, case.options_with(grounding_weight=1.0), case.trained.text)
    TrainedModule(case.built, case.options_with(kd_weight=1.0), case.trained.text)
