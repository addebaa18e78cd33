"""Options of `finetune` and its recipes; light, so that `--help` can read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from opentrans_cli.errors import OptionError

# Recipes of `finetune`: how the papers train each framework; what a user says beside one wins.
#
# Values are those of the papers, else of the released configurations (docs/method.md). Captions stay out
# until asked for.


# OpenTrans, arXiv 2404.07448, Sec. 4.1 and supplement, for DeepLabV3 and Han et al.; AdamW, its decay and the clipping
# as in the released configurations.
_OPENTRANS: dict[str, Any] = {
    "steps": 50_000,
    "batch_size": 28,
    "crop": 512,
    "scale": (0.8, 1.2),
    "scale_of": "crop",
    "optimizer": "adamw",
    "lr": 1.5e-4,
    "backbone_lr_factor": 0.1,
    "weight_decay": 0.05,
    "schedule": "steps",
    "milestones": (0.8, 0.9),
    "gamma": 0.1,
    "lr_warmup_steps": 0,
    "grad_clip": 0.01,
    "warmup_steps": 10_000,
    "freeze": "heavy",
}

FINETUNE_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "han": {
        **_OPENTRANS,
        "framework": "han",
        "class_weight": 2.0,
        "mask_weight": 5.0,
        "dice_weight": 5.0,
        "no_object_weight": 0.1,
        "region_dropout": 0.5,
        "kd_weight": 2.0,
    },
    "deeplabv3": {**_OPENTRANS, "framework": "deeplabv3"},
    # Yu et al. 2023, arXiv 2308.02487, and their configuration, which is Mask2Former's with large-scale jitter. The
    # trunk is frozen whatever is asked, so there is nothing to wait for before freezing.
    "fcclip": {
        "framework": "fcclip",
        "steps": 368_750,
        "batch_size": 16,
        "crop": 1024,
        "scale": (0.1, 2.0),
        "scale_of": "crop",
        "optimizer": "adamw",
        "lr": 1e-4,
        "weight_decay": 0.05,
        "schedule": "steps",
        "milestones": (0.888889, 0.962961),  # 327,778 and 355,092 steps
        "gamma": 0.1,
        "lr_warmup_steps": 0,
        "grad_clip": 0.01,
        "precision": "float16",
        "class_weight": 2.0,
        "mask_weight": 5.0,
        "dice_weight": 5.0,
        "no_object_weight": 0.1,
    },
}


def finetune_options(recipe: str | None, given: Mapping[str, Any]) -> FinetuneOptions:
    """What is `given`, over the recipe's values, over the defaults. Raises OptionError for an unknown recipe."""
    return FinetuneOptions(**with_recipe({**given, "recipe": recipe}))


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is `given`, over the values of its recipe if one is named. Raises OptionError for an unknown recipe."""
    recipe = given.get("recipe")
    if recipe is not None and recipe not in FINETUNE_RECIPES:
        raise OptionError(f"unknown recipe: '{recipe}'; choose one of {', '.join(FINETUNE_RECIPES)}")
    return {**FINETUNE_RECIPES.get(recipe or "", {}), **given}


def sources(options: FinetuneOptions, given: Collection[str]) -> dict[str, str]:
    """By option where its value is from: "given", "recipe" or "default"."""
    recipe = FINETUNE_RECIPES.get(options.recipe or "", {})
    names = [field.name for field in fields(options)]
    return {name: "given" if name in given else "recipe" if name in recipe else "default" for name in names}


FREEZE_OPTIONS = (
    "freeze",
    "freeze_ratio",
    "freeze_scope",
    "freeze_prefix",
    "prefix_end",
    "warmup_steps",
    "estimator",
)
"""Options of `finetune` that choose the frozen layers."""


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
    # Which layers are frozen. As long as none of these is given: those that `analyze` stored in the bundle.
    freeze: str | None = None  # heavy | light | random | none; None: heavy, where another one is given
    freeze_ratio: float | None = None  # share of the layers; None: those beyond the median
    freeze_scope: str | None = None  # trunk | model: whether the head's layers are ranked as well; None: trunk
    freeze_prefix: bool = False  # freeze whole blocks from the input on, so that nothing is computed backward there
    prefix_end: str | None = None  # the last block of the prefix; None: as far as most layers are to be frozen
    warmup_steps: int = 0  # of `steps`: first ones with nothing frozen; the layers are chosen after them
    estimator: str | None = None  # whose alphas decide; None: xmin_peak
    # what else
    sync_batchnorm: bool = True  # statistics of the whole batch in several processes; else each its own
    seed: int = 0

    @property
    def resolved_lr_warmup(self) -> int:
        """Steps in which the learning rate rises."""
        return min(20, self.steps // 10) if self.lr_warmup_steps is None else self.lr_warmup_steps

    @property
    def given_freezing(self) -> tuple[str, ...]:
        """Names of the freeze options that were given, by hand or by a recipe: they overrule `analyze`."""
        return tuple(name for name in FREEZE_OPTIONS if getattr(self, name) != getattr(FinetuneOptions, name))

    @property
    def resolved_freeze(self) -> str:
        """The freeze mode, where layers are chosen here."""
        return self.freeze or "heavy"

    @property
    def resolved_scope(self) -> str:
        """Whose layers are ranked, where layers are chosen here."""
        return self.freeze_scope or "trunk"

    @property
    def resolved_estimator(self) -> str:
        """The estimator of alphas, where layers are chosen here."""
        return self.estimator or "xmin_peak"


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
    timing_steps: int = 0  # paired steps of the run and of its full twin that are timed before the first; 0: none
