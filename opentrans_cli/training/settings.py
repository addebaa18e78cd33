"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from opentrans_cli.errors import OptionError

OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "poly", "steps", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "poly", "steps", "constant"),
    "precision": ("float32", "bfloat16", "float16"),
}


_MOST = 10**9  # steps, crops in a batch
_LARGEST = 1e9  # rates and factors whose products are finite in float32


@dataclass(frozen=True)
class TrainSettings:
    """Options of one run. Raises OptionError if one is out of range."""

    steps: int  # optimizer steps
    batch_size: int = 8  # images a step, of all processes; the loop hands it to nobody, `batch_of` makes the batches
    accumulate: int = 1  # equal parts of a process's share, one after the other; their gradients add up
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3  # largest learning rate, of everything outside the backbone
    backbone_lr_factor: float = 0.1  # learning rate of the backbone / lr
    backbone_prefix: str = "backbone."  # what the names of its parameters start with
    weight_decay: float = 0.05  # of what optimizer.py says decays
    momentum: float = 0.9  # of sgd
    schedule: ScheduleName = "cosine"  # schedules.py
    warmup_steps: int = 0  # the learning rate rises linearly over these
    milestones: tuple[float, ...] = (0.8, 0.9)  # of schedule "steps": shares of all steps, rising
    gamma: float = 0.1  # by this factor the rate falls at each, in (0, 1]
    grad_clip: float = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    ema: float = 0.0  # decay of the averaged parameters, in [0, 1); 0: no averaging
    precision: Precision = "float32"  # of the forward pass (autocast); parameters stay float32
    sync_batchnorm: bool = True  # several processes: statistics of the whole batch, else each its own
    shard: bool = False  # several processes: parameters in parts instead of copies
    seed: int = 0  # of torch's generators during the run (dropout)
    checkpoint_every: int = 0  # steps between two states on disk; 0: only at the end
    log_every: int = 10  # steps between two calls of `progress`
    eval_every: int = 0  # steps between two calls of `evaluate`; 0: none
    max_minutes: float | None = None  # the run ends after them, with a state to go on from; None: no limit

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_counts()
        self._check_amounts()
        if self.batch_size % self.accumulate:
            raise OptionError(
                f"a batch must divide into its parts: {self.batch_size} by {self.accumulate}; "
                "choose another --accumulate or --batch-size"
            )

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise OptionError(f"unknown {name}: '{getattr(self, name)}'; choose {', '.join(choices)}")

    def _check_counts(self) -> None:
        at_least_one = {
            "steps": self.steps,
            "batch size": self.batch_size,
            "accumulate": self.accumulate,
            "log every": self.log_every,
        }
        for name, value in at_least_one.items():
            if not 1 <= value <= _MOST:
                raise OptionError(f"{name} is out of range: {value}; give 1 to {_MOST}")
        not_negative = {
            "warm-up": self.warmup_steps,
            "grad clip": self.grad_clip,
            "checkpoint every": self.checkpoint_every,
            "eval every": self.eval_every,
        }
        for name, amount in not_negative.items():
            if not 0 <= amount < math.inf:
                raise OptionError(f"{name} is out of range: {amount}; give 0 or more")

    def _check_amounts(self) -> None:
        for name, amount in {"backbone lr factor": self.backbone_lr_factor, "weight decay": self.weight_decay}.items():
            if not 0 <= amount <= _LARGEST:
                raise OptionError(f"{name} is out of range: {amount}; give 0 to {_LARGEST:g}")
        for name, amount, most in (("learning rate", self.lr, _LARGEST), ("gamma", self.gamma, 1)):
            if not 0 < amount <= most:
                raise OptionError(f"{name} is out of range: {amount}; give a number above 0, up to {most:g}")
        for name, share in {"momentum": self.momentum, "ema": self.ema}.items():
            if not 0 <= share < 1:
                raise OptionError(f"{name} is out of range: {share}; give 0 or more, below 1")
        if not all(0 < share < 1 for share in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise OptionError(f"milestones are out of range: {self.milestones}; give rising shares of the steps")
        if self.max_minutes is not None and not 0 < self.max_minutes < math.inf:
            raise OptionError(f"max minutes is out of range: {self.max_minutes}; give a number above 0")
