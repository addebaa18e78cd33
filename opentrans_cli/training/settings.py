"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from opentrans_cli.errors import OptionError


@dataclass(frozen=True)
class TrainSettings:
    """Options of one run. Raises OptionError if one is out of range."""

    steps: int  # optimizer steps
    batch_size: int = 8  # images per step; the loop hands it to nobody, `batch_of` makes batches of this size
    lr: float = 1e-3  # largest learning rate, of everything outside the backbone
    backbone_lr_factor: float = 0.1  # learning rate of the backbone / lr
    weight_decay: float = 0.05  # AdamW; norms, biases and scalars have none
    warmup_steps: int = 0  # the learning rate rises linearly over these
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up: down to 0 at the last step, or flat
    grad_clip: float = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    seed: int = 0  # of torch's generators during the run (dropout)
    checkpoint_every: int = 0  # steps between two states on disk; 0: only at the end
    log_every: int = 10  # steps between two calls of `progress`

    def __post_init__(self) -> None:
        at_least_one = {"steps": self.steps, "batch size": self.batch_size, "log every": self.log_every}
        not_negative = {
            "backbone lr factor": self.backbone_lr_factor,
            "weight decay": self.weight_decay,
            "warm-up": self.warmup_steps,
            "grad clip": self.grad_clip,
            "checkpoint every": self.checkpoint_every,
        }
        for name, value in at_least_one.items():
            if value < 1:
                raise OptionError(f"{name} is out of range: {value}; give at least 1")
        for name, amount in not_negative.items():
            if not 0 <= amount < math.inf:
                raise OptionError(f"{name} is out of range: {amount}; give 0 or more")
        if not 0 < self.lr < math.inf:
            raise OptionError(f"learning rate is out of range: {self.lr}; give a number above 0")
        if self.schedule not in ("cosine", "constant"):
            raise OptionError(f"unknown schedule: '{self.schedule}'; choose cosine or constant")


def rate_at(settings: TrainSettings, step: int) -> float:
    """Learning rate of step `step` (from 0) / `settings.lr`, in [0, 1]; a function of the step alone."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.schedule == "constant":
        return warmup
    return warmup * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
