"""Options of the verbs that take many: one place for their defaults, light enough for `--help` to read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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

    recipe: str | None = None  # where values came from that nobody gave; a name of steps/finetune_recipes.py
    framework: str | None = None  # None: the bundle's own, else deeplabv3
    # how long, on what
    steps: int = 400
    batch_size: int = 16  # crops in a step, of all processes together
    accumulate: int = 1  # parts of a batch, one after the other
    crop: int | None = None  # side of training crops in pixels; None = what the data set suggests
    scale: tuple[float, float] = (0.75, 1.5)  # range of the factor by which images are resized
    scale_of: str = "image"  # image: the factor is of the image's own size | crop: of the size that fits into the crop
    flip: bool = True  # mirror half of the crops
    views: int = 0  # fixed crops of every image; 0: new ones for ever
    # optimizer
    optimizer: str = "adamw"  # adamw | sgd
    lr: float = 2e-3
    backbone_lr_factor: float = 0.1
    weight_decay: float = 0.05
    momentum: float = 0.9  # of sgd
    schedule: str = "cosine"  # cosine | poly | steps | constant
    lr_warmup_steps: int | None = None  # steps in which the rate rises; None: a tenth of all, at most 20
    milestones: tuple[float, ...] = (0.8, 0.9)  # of schedule steps: shares of all steps, after each the rate falls
    gamma: float = 0.1  # by this factor
    grad_clip: float = 1.0  # largest L2 norm of all gradients together; 0: no clipping
    ema: float = 0.0  # decay of the averaged weights that are written in the end; 0: the last weights are
    precision: str = "float32"  # float32 | bfloat16 | float16 (autocast)
    # loss
    class_weight: float = 2.0  # frameworks of masks
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1  # of the class of a query without a mask
    points: int = 12_544  # points a mask is compared at
    oversample: float = 3.0  # points looked at for each that is taken
    importance: float = 0.75  # share of the points that are taken for being uncertain
    region_dropout: float = 0.0  # share of matched queries whose class takes no part
    kd_weight: float = 0.0  # distillation of regions from the dense CLIP
    grounding_weight: float = 0.0  # words of captions against queries; frameworks of masks
    captions: str | None = None  # file with the words of each image: its stem, a tab, words with commas
    # which layers are frozen
    freeze: str = "heavy"  # heavy | light | random | none
    freeze_ratio: float | None = None  # share of the layers; None: those beyond the median
    freeze_scope: str = "trunk"  # trunk | model: whether the head's layers are ranked as well
    freeze_prefix: bool = False  # freeze whole blocks from the input on, so that nothing is computed backward there
    prefix_end: str | None = None  # the last block of the prefix; None: as far as most layers are to be frozen
    warmup_steps: int = 0  # of `steps`: first ones with nothing frozen; the layers are chosen after them
    estimator: str = "xmin_peak"
    # what else
    sync_batchnorm: bool = True  # statistics of the whole batch in several processes; else each its own
    seed: int = 0

    @property
    def resolved_lr_warmup(self) -> int:
        """Steps in which the learning rate rises."""
        return min(20, self.steps // 10) if self.lr_warmup_steps is None else self.lr_warmup_steps


@dataclass(frozen=True)
class FinetuneControls:
    """How a run of `finetune` goes about it; none of this changes what it learns.

    Kept features, and parameters in parts, are computed in another order: the weights then differ by rounding.
    """

    workers: int = 0  # processes that make crops; 0: this one
    save_every: int = 100  # steps between two states on disk
    log: Path | None = None  # JSON lines; None: beside the bundle, OUT.log.jsonl
    tensorboard: Path | None = None  # folder of event files
    eval_every: int = 0  # steps between two evaluations on the validation split; 0: none
    eval_limit: int = 50  # images of each
    eval_split_list: Path | None = None  # folder data sets: what to evaluate on
    max_minutes: float | None = None  # stop after them, with a state to go on from
    cache_features: Path | None = None  # folder for the features, in float32, of a frozen prefix; needs fixed views
    shard: bool = False  # several processes: parameters in parts (FSDP2) instead of copies (DDP)
    timing_steps: int = 3  # paired steps of the run and of its full twin that are timed before the first; 0: none
