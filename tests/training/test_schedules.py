"""Learning rates are functions of the step."""

from __future__ import annotations

import pytest

from opentrans_cli.training.optimizer import rate_at
from opentrans_cli.training.settings import TrainSettings


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
