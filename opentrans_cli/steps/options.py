"""Options of the verbs that take many: one place for their defaults, light enough for `--help` to read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PruneOptions:
    """Everything that decides the result of `prune`; recorded in the bundle."""

    source: str = "RN50-quickgelu:openai"
    sparsity: float = 0.9  # removed / prunable, in [0, 1)
    rate: float = 0.1  # share of the remaining weights a round removes (the paper's p)
    pattern: str = "unstructured"
    images: str | None = None  # folder, or "shapes"; None = one shot without distillation
    image_limit: int = 4096
    steps_per_round: int = 16  # optimizer steps in each round (the paper's t)
    final_steps: int = 352  # optimizer steps in the last round, at the target sparsity
    batch_size: int = 64
    lr: float = 1e-3
    random: bool = False  # the random twin
    like: str | None = None  # with `random`: the bundle whose counts the twin copies
    keep_rounds: bool = False  # store the round in which each weight was pruned (one byte per weight)
    dtype: str = "float32"  # of the stored weights
    seed: int = 0


@dataclass(frozen=True)
class FinetuneOptions:
    """Everything that decides the result of `finetune`, besides bundle and data set; recorded in the bundle."""

    framework: str | None = None  # None: the bundle's own, else deeplabv3
    steps: int = 400
    batch_size: int = 16
    crop: int | None = None  # side of training crops in pixels; None = what the data set suggests
    lr: float = 2e-3
    backbone_lr_factor: float = 0.1
    weight_decay: float = 0.05
    freeze: str = "heavy"  # heavy | light | random | none
    freeze_ratio: float = 0.5
    estimator: str = "xmin_peak"
    seed: int = 0
