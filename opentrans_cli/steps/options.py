"""Options of the verbs that take many: one place for their defaults, light enough for `--help` to read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PruneOptions:
    """Everything that decides the result of `prune`; recorded in the bundle."""

    source: str = "RN50-quickgelu:openai"
    sparsity: float = 0.9  # removed / prunable, in [0, 1)
    # which weights
    criterion: str | None = None  # None: fisher with images, magnitude without
    pattern: str = "unstructured"
    include: tuple[str, ...] = ()  # globs of layers to prune beside the default ones
    exclude: tuple[str, ...] = ()  # globs of layers to leave alone
    score_images: int = 512  # views a criterion looks at in each round
    probes: int = 1  # random probes an image, of fisher
    # how fast
    schedule: str = "rounds"  # rounds | one-shot | linear | cubic
    rate: float = 0.1  # rounds: share of the remaining weights a round removes (the paper's p)
    rounds: int = 10  # linear, cubic: how many rounds
    # on what
    images: str | None = None  # folder, list file, tar shards, or "shapes"; None = one shot without distillation
    image_limit: int = 4096
    skip_bad: bool = False  # leave unreadable images out instead of stopping
    labels: str | None = None  # text-guided: folder of label maps
    classes: str | None = None  # text-guided: class file
    ignore: int | None = None  # text-guided: id of unlabelled pixels
    # distillation
    distill: str = "image"  # image | text-guided | none
    framework: str = "deeplabv3"  # text-guided: the segmentor whose embeddings are compared
    steps_per_round: int = 16  # optimizer steps in each round (the paper's t)
    final_steps: int = 352  # optimizer steps in the last round, at the target sparsity
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.0
    grad_clip: float = 0.0  # largest L2 norm of all gradients together; 0: no clipping
    precision: str = "float32"  # of distillation: float32 | bfloat16 (autocast)
    # what else
    random: bool = False  # the random twin
    like: str | None = None  # with `random`: the bundle whose counts the twin copies
    keep_rounds: str = "none"  # none | masks | weights: what of earlier rounds can be taken out later
    mask_only: bool = False  # store no values
    dtype: str = "float32"  # of the stored weights
    seed: int = 0

    @property
    def resolved_criterion(self) -> str:
        """The criterion by name."""
        return self.criterion or ("magnitude" if self.images is None else "fisher")


@dataclass(frozen=True)
class AnalyzeOptions:
    """Everything that decides the result of `analyze`, besides the source; recorded in the bundle."""

    # spectra
    estimator: str = "xmin_peak"
    window: str = "log"  # xmin_peak: log, as published, or linear, with its lower bound mended
    include: tuple[str, ...] = ()  # globs of layers to analyze beside the default ones
    exclude: tuple[str, ...] = ()  # globs of layers to leave out
    # which layers to freeze; none of ratio, threshold, top: those below the median
    freeze: str = "heavy"  # heavy | light | random | none
    freeze_ratio: float | None = None  # share of the layers
    freeze_threshold: float | None = None  # heavy: alphas below it, light: above
    freeze_top: int | None = None  # of the layers the median allows, so many that save most training
    # trust
    bootstrap: int = 0  # resamples of every spectrum; 0: no interval
    null: bool = False  # compare with random weights of the same shapes and scales
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
