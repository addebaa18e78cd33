"""What a training run is asked to do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from opentrans_cli.errors import OptionError, flag

OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "poly", "steps", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]

_CHOICES = {"optimizer": OptimizerName, "schedule": ScheduleName, "precision": Precision}

_MOST = 10**9  # steps, crops in a batch
_LARGEST = 1e9  # rates and factors whose products are finite in float32

# Written so that NaN is in none of them.
_RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("steps", "batch_size", "accumulate", "log_every"), lambda x: 1 <= x <= _MOST, f"1 to {_MOST}"),
    (("lr_warmup_steps", "grad_clip", "save_every", "eval_every"), lambda x: 0 <= x < math.inf, "0 or more"),
    (("backbone_lr_factor", "weight_decay"), lambda x: 0 <= x <= _LARGEST, f"0 to {_LARGEST:g}"),
    (("lr",), lambda x: 0 < x <= _LARGEST, f"a number above 0, up to {_LARGEST:g}"),
    (("gamma",), lambda x: 0 < x <= 1, "a number above 0, up to 1"),
    (("momentum", "ema"), lambda x: 0 <= x < 1, "0 or more, below 1"),
)


@dataclass(frozen=True)
class TrainSettings:
    """Options of one run, by the names of their flags. Raises OptionError if one is out of range."""

    steps: int  # optimizer steps
    batch_size: int = 8  # images a step, of all processes; the loop hands it to nobody, `batch_of` makes the batches
    accumulate: int = 1  # equal parts of a process's share, one after the other; their gradients add up
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3  # largest learning rate, of everything outside the backbone
    backbone_lr_factor: float = 0.1  # learning rate of the backbone / lr
    backbone_prefix: str = "backbone."  # what the names of its parameters start with
    weight_decay: float = 0.05  # of what optimizer.py says decays
    decay_all: bool = False  # of vectors and embeddings as well
    momentum: float = 0.9  # of sgd
    schedule: ScheduleName = "cosine"  # schedules.py
    lr_warmup_steps: int = 0  # the learning rate rises linearly over these
    milestones: tuple[float, ...] = (0.8, 0.9)  # of schedule "steps": shares of all steps, rising
    gamma: float = 0.1  # by this factor the rate falls at each, in (0, 1]
    grad_clip: float = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    ema: float = 0.0  # decay of the averaged parameters, in [0, 1); 0: no averaging
    precision: Precision = "float32"  # of the forward pass (autocast); parameters stay float32
    sync_batchnorm: bool = True  # several processes: statistics of the whole batch, else each its own
    shard: bool = False  # several processes: parameters in parts instead of copies
    seed: int = 0  # of torch's generators during the run (dropout)
    save_every: int = 0  # steps between two states on disk; 0: only at the end
    log_every: int = 10  # steps between two calls of `progress`
    eval_every: int = 0  # steps between two calls of `evaluate`; 0: none
    max_minutes: float | None = None  # the run ends after them, with a state to go on from; None: no limit

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise OptionError(
                    f"unknown {name}: {flag(name)} {getattr(self, name)}; choose one of {', '.join(get_args(choices))}"
                )
        for names, holds, wanted in _RANGES:
            for name in names:
                self._require(name, holds(getattr(self, name)), wanted)
        rising = list(self.milestones) == sorted(self.milestones)
        self._require("milestones", rising and all(0 < share < 1 for share in self.milestones), "rising shares of 1")
        minutes = self.max_minutes
        self._require("max_minutes", minutes is None or 0 < minutes < math.inf, "a number above 0")
        if self.batch_size % self.accumulate:
            raise OptionError(
                f"a batch must divide into its parts: --batch-size {self.batch_size} by --accumulate "
                f"{self.accumulate}; choose others"
            )

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            value = getattr(self, name)
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise OptionError(f"out of range: {flag(name)} {shown}; give {wanted}")
