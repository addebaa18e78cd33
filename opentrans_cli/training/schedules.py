"""Learning rates as functions of the step alone, so that a resumed run needs no memory of them."""

from __future__ import annotations

import math

from opentrans_cli.training.settings import TrainSettings

_POWER = 0.9  # of "poly", as DeepLab has it


def rate_at(settings: TrainSettings, step: int) -> float:
    """Learning rate of step `step` (from 0) / `settings.lr`, in [0, 1].

    constant: 1. cosine: half a wave, from 1 down to 0 after the last step. poly: (1 - step / steps) ** 0.9. steps:
    falls by `gamma` at round(share * steps) for each of the milestones. All times a linear rise over the warm-up.
    """
    warmup = min(1.0, (step + 1) / settings.lr_warmup_steps) if settings.lr_warmup_steps else 1.0
    return warmup * _after_warmup(settings, step)


def _after_warmup(settings: TrainSettings, step: int) -> float:
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    if settings.schedule == "poly":
        return float((1 - step / settings.steps) ** _POWER)
    if settings.schedule == "steps":
        passed = sum(step >= round(share * settings.steps) for share in settings.milestones)
        return float(settings.gamma**passed)
    return 1.0
