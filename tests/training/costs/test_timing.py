"""Paired steps: in turn, of copies, without a trace in the run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from opentrans_cli.training.costs import timing as step_timing
from opentrans_cli.training.costs.timing import Timing, time_pair, training_step
from opentrans_cli.training.freezing import freeze_modules


def test_both_are_called_in_turn_and_who_is_first_changes():
    calls = []
    timing = time_pair(lambda: calls.append("run"), lambda: calls.append("twin"), steps=3)
    untimed, timed = calls[:2], calls[2:]
    assert untimed == ["run", "twin"]
    assert timed == ["run", "twin", "twin", "run", "run", "twin"]
    assert len(timing.run) == len(timing.twin) == 3


def test_each_is_measured_by_itself(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])

    def lasting(*seconds):
        left = iter(seconds)

        def step():
            now[0] += next(left)

        return step

    timing = time_pair(lasting(100.0, 1.0, 2.0, 30.0), lasting(50.0, 2.0, 8.0, 40.0), steps=3)
    assert (timing.run, timing.twin) == ((1.0, 2.0, 30.0), (2.0, 8.0, 40.0))
    assert timing.to_json() == {"pairs": 3, "run_seconds": 2.0, "full_seconds": 8.0, "ratio": 0.5}


def test_one_function_may_be_both():
    def step():
        pass

    timing = time_pair(step, step, steps=2)
    assert len(timing.run) == len(timing.twin) == 2


def test_a_slow_moment_moves_no_median():
    assert Timing((1.0, 9.0, 1.0), (2.0, 2.0, 2.0)).ratio == 0.5


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        time_pair(lambda: None, lambda: None, steps=0)


def test_timing_leaves_models_and_random_numbers_as_they_were(small_net):
    full, run = small_net(), small_net()
    freeze_modules(run, ["backbone.conv1", "backbone.bn1"])
    images = torch.randn(2, 3, 8, 8)
    held = []

    def step_of(model):
        return training_step(
            model,
            lambda copied: lambda: (copied(part[None]).square().mean() for part in images),
            optimizer=lambda copied: torch.optim.SGD(
                [parameter for parameter in copied.parameters() if parameter.requires_grad], lr=0.1
            ),
            after_step=lambda copied: lambda: held.append(copied),
            grad_clip=1.0,
        )

    before = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (full, run)]
    steps = [step_of(run), step_of(full)]
    generator = torch.get_rng_state()
    time_pair(*steps, steps=2)
    assert torch.equal(torch.get_rng_state(), generator)
    for model, state in zip((full, run), before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
    trained = {id(copied): copied for copied in held}.values()
    assert len(held) == 6 and len(trained) == 2
    frozen_copy, full_copy = trained
    assert torch.equal(frozen_copy.backbone.conv1.weight, run.backbone.conv1.weight)
    assert not torch.equal(full_copy.backbone.conv1.weight, full.backbone.conv1.weight)
    assert not torch.equal(frozen_copy.head.weight, run.head.weight)


def test_every_part_of_a_batch_adds_to_one_step():
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    seen = []
    step = training_step(
        model,
        lambda copied: lambda: (copied(part).sum() for part in torch.tensor([[[1.0]], [[2.0]]])),
        optimizer=lambda copied: torch.optim.SGD(copied.parameters(), lr=1.0),
        after_step=lambda copied: lambda: seen.append(copied.weight.item()),
    )
    step()
    step()
    assert seen == [-2.0, -5.0] and model.weight.item() == 1.0
