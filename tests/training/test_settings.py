"""Settings out of range are refused with their flag and what to give."""

from __future__ import annotations

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.training.settings import TrainSettings


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
        {"lr_warmup_steps": -1},
        {"schedule": "linear"},
        {"optimizer": "adam"},
        {"precision": "float8"},
        {"accumulate": 0},
        {"accumulate": 3},
        {"momentum": 1.0},
        {"ema": 1.0},
        {"ema": -0.1},
        {"gamma": 0.0},
        {"milestones": (0.9, 0.8)},
        {"milestones": (0.5, 1.0)},
        {"eval_every": -1},
        {"max_minutes": 0.0},
    ],
)
def test_settings_out_of_range_are_refused_with_their_flag_and_what_to_give(wrong):
    flag = next(iter(wrong)).replace("_", "-")
    with pytest.raises(OptionError, match=rf"--{flag} .*; (give|choose) "):
        TrainSettings(**{"steps": 10, **wrong})
