"""Paired steps: in turn, of copies, without a trace in the run."""

from __future__ import annotations

import pytest
import torch

from opentrans_cli.training.costs import timing as step_timing
from opentrans_cli.training.costs.timing import StepTimer, Timing, time_pair
from opentrans_cli.training.freezing import freeze_modules
from opentrans_cli.training.settings import TrainSettings


def test_both_are_called_in_turn_and_who_is_first_changes():
    calls = []
    timing = time_pair(lambda: calls.append("run"), lambda: calls.append("control"), steps=3)
    untimed, timed = calls[:2], calls[2:]
    assert untimed == ["run", "control"]
    assert timed == ["run", "control", "control", "run", "run", "control"]
    assert len(timing.run) == len(timing.control) == 3


def test_each_is_measured_by_itself(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])

    def lasting(*seconds):
        left = iter(seconds)

        def step():
            now[0] += next(left)

        return step

    timing = time_pair(lasting(100.0, 1.0, 2.0, 30.0), lasting(50.0, 2.0, 8.0, 40.0), steps=3)
    assert (timing.run, timing.control) == ((1.0, 2.0, 30.0), (2.0, 8.0, 40.0))
    assert timing.to_json() == {"pairs": 3, "run_seconds": 2.0, "full_seconds": 8.0, "ratio": 0.5}


def test_one_function_may_be_both():
    def step():
        pass

    timing = time_pair(step, step, steps=2)
    assert len(timing.run) == len(timing.control) == 2


def test_a_slow_moment_moves_no_median():
    assert Timing((1.0, 9.0, 1.0), (2.0, 2.0, 2.0)).ratio == 0.5


def test_no_pair_is_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        time_pair(lambda: None, lambda: None, steps=0)


def test_timing_takes_steps_of_training_of_copies_alone(experiment, pixel_loss, batch):
    settings = TrainSettings(steps=6, batch_size=4, accumulate=2, lr=0.1, grad_clip=1.0)
    made, copies, held = experiment(settings, frozen=False), [], []

    def loss(called):
        copies.append(called)
        return pixel_loss(called, lambda: None)

    timer = StepTimer(made.net, loss, settings, lambda copied: lambda: held.append(copied), steps=2)
    freeze_modules(made.net, ["backbone.conv1", "backbone.bn1"])
    before, generator = made.state(), torch.get_rng_state()
    timing = timer.time(batch, batch, torch.device("cpu"))
    assert timing is not None and len(timing.run) == len(timing.control) == 2
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state().items())
    assert all(parameter.grad is None for parameter in made.net.parameters())
    run, control = copies
    assert held.count(run) == held.count(control) == 3  # one of each is not timed
    assert torch.equal(run.backbone.conv1.weight, made.weight)
    assert not torch.equal(control.backbone.conv1.weight, made.weight)
    assert not torch.equal(run.head.weight, made.net.head.weight)


def test_without_steps_nothing_is_copied_and_nothing_timed(experiment, batch):
    made = experiment(TrainSettings(steps=1))
    timer = StepTimer(made.net, None, made.settings, None, steps=0)
    assert timer.time(batch, batch, torch.device("cpu")) is None
