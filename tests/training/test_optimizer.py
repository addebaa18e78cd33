"""What decays, what learns slower, and how long gradients may be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opentrans_cli.training.optimizer import (
    build_optimizer,
    clip_gradients,
    embeddings,
    gradients,
    rate_at,
    set_rate,
    total_norm,
)
from opentrans_cli.training.settings import TrainSettings


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.backbone2 = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.queries = nn.Embedding(5, 4)
        self.void_embedding = nn.Parameter(torch.ones(1, 4))
        self.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_matrices_decay_and_the_backbone_learns_slower(name):
    net = Net()
    trained = dict(net.named_parameters())
    settings = TrainSettings(steps=1, optimizer=name, weight_decay=0.05, backbone_lr_factor=0.1, lr=2.0)
    optimizer = build_optimizer(trained, settings, embeddings=embeddings(net))
    set_rate(optimizer, 0.5)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(of) == len(trained) == sum(len(group["params"]) for group in optimizer.param_groups)
    decaying = {key for key, p in trained.items() if of[id(p)]["weight_decay"] == 0.05}
    assert decaying == {"backbone.0.weight", "backbone2.weight"}
    slower = {key for key, p in trained.items() if of[id(p)]["lr"] == pytest.approx(0.05)}
    assert slower == {key for key in trained if key.startswith("backbone.")}
    assert {of[id(p)]["lr"] for key, p in trained.items() if key not in slower} == {0.5}


def test_sgd_has_its_momentum_and_what_the_optimizer_holds_is_what_it_was_given():
    net = Net()
    optimizer = build_optimizer({"scale": net.scale}, TrainSettings(steps=1, optimizer="sgd", momentum=0.7))
    assert [group["momentum"] for group in optimizer.param_groups] == [0.7]
    assert [p for group in optimizer.param_groups for p in group["params"]] == [net.scale]


def test_a_bare_table_is_an_embedding_too():
    assert embeddings(nn.Embedding(2, 3)) == {"weight"}


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 5.0), (1.0, 1.0), (5.1, 5.0)])
def test_a_norm_above_the_limit_becomes_the_limit_after_the_scale_is_taken_out(limit, expected):
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(3))]
    parameters[0].grad, parameters[1].grad = torch.tensor([0.0, 3.0]) * 8, torch.tensor(4.0) * 8
    found = gradients(parameters)
    assert len(found) == 2 and float(total_norm(found)) == 40
    clip_gradients(found, 5.0, limit=limit, scale=8.0)
    assert float(total_norm(found)) == pytest.approx(expected, rel=1e-5)


def rates(**settings):
    made = TrainSettings(**settings)
    return [rate_at(made, step) for step in range(made.steps)]


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_falling_schedules_start_at_one_and_end_just_above_zero(schedule):
    found = rates(steps=100, schedule=schedule)
    assert found[0] == 1 and found == sorted(found, reverse=True) and 0 < found[-1] < 0.02


def test_halfway_they_are_what_their_formulas_say():
    assert rates(steps=100, schedule="cosine")[50] == pytest.approx(0.5)
    assert rates(steps=100, schedule="poly")[50] == pytest.approx(0.5**0.9)


def test_steps_fall_by_gamma_at_their_milestones():
    found = rates(steps=10, schedule="steps", milestones=(0.44, 0.85), gamma=0.1)
    assert found == pytest.approx([1] * 4 + [0.1] * 4 + [0.01] * 2)
    published = TrainSettings(steps=368_750, schedule="steps", milestones=(0.888889, 0.962961))
    falls = [step for step in (327_777, 327_778, 355_091, 355_092)]
    assert [rate_at(published, step) for step in falls] == pytest.approx([1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize("schedule", ["cosine", "poly", "steps", "constant"])
def test_a_warm_up_rises_linearly_to_the_schedule(schedule):
    plain, warmed = rates(steps=100, schedule=schedule), rates(steps=100, schedule=schedule, lr_warmup_steps=4)
    assert warmed == pytest.approx([rate * min(1, (step + 1) / 4) for step, rate in enumerate(plain)])
    assert warmed[4:] == plain[4:]
