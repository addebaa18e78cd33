"""The settings of a training run; the values were checked where the options are defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["cosine", "poly", "steps", "constant"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class TrainSettings:
    """Options of one run, by the names of their flags."""

    steps: int  # optimizer steps
    batch_size: int = 8  # images per step, over all processes; not used in the loop, `batch_of` makes the batches
    accumulate: int = 1  # equal parts of a process's share, one after the other; their gradients add up
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3  # largest learning rate, of everything outside the backbone
    backbone_lr_factor: float = 0.1  # learning rate of the backbone / lr
    backbone_prefix: str = "backbone."  # prefixes of the names of its parameters
    weight_decay: float = 0.05  # of what optimizer.py says decays
    decay_all: bool = False  # of vectors and embeddings as well
    momentum: float = 0.9  # of sgd
    schedule: ScheduleName = "cosine"  # see optimizer.rate_at
    lr_warmup_steps: int = 0  # the learning rate rises linearly over these
    milestones: tuple[float, ...] = (0.8, 0.9)  # of schedule "steps": shares of all steps, rising
    gamma: float = 0.1  # factor of the rate at each of these milestones, in (0, 1]
    grad_clip: float = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    ema: float = 0.0  # decay of the averaged parameters, in [0, 1); 0: no averaging
    precision: Precision = "float32"  # of the forward pass (autocast); parameters stay float32
    sync_batchnorm: bool = True  # several processes: statistics of the whole batch, else each its own
    shard: bool = False  # several processes: parameters in parts instead of copies
    seed: int = 0  # of torch's generators during the run (dropout)
    save_every: int = 0  # steps between two states on disk; 0: only at the end
    log_every: int = 10  # steps between two calls of `progress`
    eval_every: int = 0  # steps between two calls of `evaluate`; 0: none
    max_minutes: float | None = None  # time limit, after which the run ends with a state to resume from; None: no limit
