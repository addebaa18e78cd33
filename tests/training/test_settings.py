"""Learning rates are functions of the step, and settings out of range are refused."""

from __future__ import annotations

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.training.settings import TrainSettings, rate_at


def test_cosine_starts_at_one_and_ends_just_above_zero():
    settings = TrainSettings(steps=100)
    rates = [rate_at(settings, step) for step in range(100)]
    assert rates[0] == 1
    assert rates[50] == pytest.approx(0.5)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.001


def test_warm_up_rises_linearly_to_the_schedule():
    settings = TrainSettings(steps=100, warmup_steps=4, schedule="constant")
    assert [rate_at(settings, step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"log_every": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -0.1},
        {"grad_clip": float("inf")},
        {"warmup_steps": -1},
        {"schedule": "linear"},
    ],
)
def test_settings_out_of_range_are_refused_with_what_to_give(wrong):
    with pytest.raises(OptionError, match=r"; (give|choose) "):
        TrainSettings(**{"steps": 10, **wrong})
