"""Options of `finetune` and its recipes; light, so that `--help` can read them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from opentrans_cli.datasets.options import CropOptions
from opentrans_cli.errors import OptionError, unknown
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.option import Options, option, shown, workers
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.steps.shared_options import FREEZE

# Recipes of `finetune`: how the papers train each framework; options that the user gives as well take precedence.
#
# Values are those of the papers, or else of the released configurations (docs/method.md). Captions are used only if
# asked for.


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
    # trunk is always frozen, so no warm-up is needed before freezing.
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
    """The options of `given`, then the recipe's values, then the defaults. Raises OptionError for an unknown recipe."""
    return FinetuneOptions(**with_recipe({**given, "recipe": recipe}))


def with_recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `given`, then the values of the recipe that it names. Raises OptionError for an unknown recipe."""
    recipe = given.get("recipe")
    if recipe is not None and recipe not in FINETUNE_RECIPES:
        raise OptionError(unknown("recipe", recipe, FINETUNE_RECIPES))
    return {**FINETUNE_RECIPES.get(recipe or "", {}), **given}


def sources(options: FinetuneOptions, given: Collection[str]) -> dict[str, str]:
    """For each option the source of its value: "given", "recipe" or "default"."""
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


_TRAINING, _OPTIMIZER, _LOSS = "Training", "Optimizer", "Loss"
_FREEZING, _COST, _RUNNING = "Freezing", "Cost", "Running"
_LARGEST = 10**9  # limit of rates and factors, so that their products are finite in float32
_HEAVIEST = 10**6  # limit of weights of the loss, which overflows above it


@dataclass(frozen=True)
class FinetuneOptions(CropOptions):
    """Everything that decides the result of `finetune`, besides bundle and data set; recorded in the bundle."""

    recipe: str | None = option(
        None,
        help="the settings of a paper; what is typed beside it wins",
        choices={
            "han": "Han et al., trained as in OpenTrans",
            "deeplabv3": "DeepLabV3, trained as in OpenTrans",
            "fcclip": "FC-CLIP, trained as in its paper",
        },
    )
    framework: str | None = option(
        None,
        help="what is built if the bundle holds no segmentor; refused if it holds another",
        choices=FRAMEWORKS.names(),
        unset="the bundle's, else deeplabv3",
        panel=_TRAINING,
    )
    precision: str = option(
        "float32",
        help="precision of the forward pass, while weights stay float32",
        choices={"float32": "", "bfloat16": "autocast", "float16": "autocast"},
        panel=_TRAINING,
    )
    ema: float = option(
        0.0,
        least=0,
        below=1,
        help="decay of averaged weights, such as 0.999, which are then evaluated and written; 0 for none",
        panel=_TRAINING,
    )
    # Optimizer.
    optimizer: str = option("adamw", help="kind of optimizer", choices=("adamw", "sgd"), panel=_OPTIMIZER)
    lr: float = option(2e-3, above=0, most=_LARGEST, help="peak learning rate of the head", panel=_OPTIMIZER)
    backbone_lr_factor: float = option(
        0.1, least=0, most=_LARGEST, help="learning rate of the tower divided by that of the head", panel=_OPTIMIZER
    )
    weight_decay: float = option(
        0.05, least=0, most=_LARGEST, help="weight decay; norms, biases and embeddings have none", panel=_OPTIMIZER
    )
    momentum: float = option(0.9, least=0, below=1, help="momentum of sgd", panel=_OPTIMIZER)
    schedule: str = option(
        "cosine",
        help="how the learning rate falls after it has risen",
        choices=("cosine", "poly", "steps", "constant"),
        panel=_OPTIMIZER,
    )
    lr_warmup_steps: int | None = option(
        None,
        least=0,
        help="steps in which the learning rate rises",
        unset="a tenth of all, at most 20",
        panel=_OPTIMIZER,
    )
    milestones: tuple[float, ...] = option(
        (0.8, 0.9),
        above=0,
        below=1,
        help="shares of all steps after which the rate falls; for --schedule steps",
        kind="commas",
        panel=_OPTIMIZER,
    )
    gamma: float = option(
        0.1, above=0, most=1, help="factor by which the rate falls each time; for --schedule steps", panel=_OPTIMIZER
    )
    grad_clip: float = option(
        1.0, least=0, help="largest L2 norm of all gradients together; 0 clips nothing", panel=_OPTIMIZER
    )
    # Loss.
    class_weight: float = option(
        2.0, least=0, most=_HEAVIEST, help="weight of the loss of a query's class; for frameworks of masks", panel=_LOSS
    )
    mask_weight: float = option(
        5.0,
        least=0,
        most=_HEAVIEST,
        help="weight of the cross-entropy at the points of a mask; for frameworks of masks",
        panel=_LOSS,
    )
    dice_weight: float = option(
        5.0,
        least=0,
        most=_HEAVIEST,
        help="weight of the Dice loss at the points of a mask; for frameworks of masks",
        panel=_LOSS,
    )
    no_object_weight: float = option(
        0.1,
        least=0,
        most=_HEAVIEST,
        help="weight of the loss of the class of a query without a mask; for frameworks of masks",
        panel=_LOSS,
    )
    points: int = option(12_544, least=1, most=10**6, help="number of points at which a mask is compared", panel=_LOSS)
    oversample: float = option(
        3.0, least=1, most=100, help="number of points looked at for each that is taken", panel=_LOSS
    )
    importance: float = option(
        0.75, least=0, most=1, help="share of the points that are taken for being uncertain", panel=_LOSS
    )
    region_dropout: float = option(
        0.0, least=0, below=1, help="share of matched queries left out of the loss of classes (Han et al.)", panel=_LOSS
    )
    kd_weight: float = option(
        0.0, least=0, most=_HEAVIEST, help="weight of distillation of regions from the dense CLIP", panel=_LOSS
    )
    grounding_weight: float = option(
        0.0,
        least=0,
        most=_HEAVIEST,
        help="weight of the loss between queries and the words of captions, for frameworks of masks; needs --captions",
        panel=_LOSS,
    )
    captions: str | None = option(
        None, help="file with the words of each image: its stem, a tab, words with commas", kind="path", panel=_LOSS
    )
    # Which layers are frozen. If none of these is given, they are those that `analyze` stored in the bundle.
    freeze: str | None = option(
        None,
        help="layers to freeze",
        choices=FREEZE,
        noun="freeze mode",
        unset="what analyze stored, else heavy",
        panel=_FREEZING,
    )
    freeze_ratio: float | None = option(
        None,
        least=0,
        most=1,
        help="share of the layers to freeze",
        unset="what analyze stored, else those beyond the median",
        panel=_FREEZING,
    )
    freeze_scope: str | None = option(
        None,
        help="layers that are ranked",
        choices={"trunk": "those of the tower", "model": "those of the head with them"},
        unset="trunk",
        panel=_FREEZING,
    )
    freeze_prefix: bool = option(
        False,
        help="freeze whole blocks from the input on, as far as most layers are chosen, so that nothing is computed "
        "backward there",
        panel=_FREEZING,
    )
    prefix_end: str | None = option(
        None,
        help="last block of the frozen prefix, such as stem, layer2.3 or layer4.0",
        panel=_FREEZING,
        completes="block",
    )
    warmup_steps: int = option(
        0,
        least=0,
        help="number of first steps with nothing frozen, fewer than all; alphas are those of the weights after them",
        panel=_FREEZING,
    )
    estimator: str | None = option(
        None,
        help="estimator of the alphas that decide",
        choices=ESTIMATORS.names(),
        unset="what analyze stored, else xmin_peak",
        panel=_FREEZING,
    )
    # Other options.
    sync_batchnorm: bool = option(
        True,
        help="with several processes, take BatchNorm statistics of the whole batch, not of each process alone",
        panel=_RUNNING,
    )

    def __post_init__(self) -> None:
        """Raises OptionError for a value out of range, and for milestones that do not rise."""
        super().__post_init__()
        if list(self.milestones) != sorted(self.milestones):
            raise OptionError(f"not rising: --milestones {shown(self.milestones)}; give the smaller share first")

    @property
    def resolved_lr_warmup(self) -> int:
        """The number of steps in which the learning rate rises."""
        return min(20, self.steps // 10) if self.lr_warmup_steps is None else self.lr_warmup_steps

    @property
    def given_freezing(self) -> tuple[str, ...]:
        """Names of the freeze options that were given, by hand or by a recipe: they overrule `analyze`."""
        return tuple(name for name in FREEZE_OPTIONS if getattr(self, name) != getattr(FinetuneOptions, name))

    @property
    def resolved_freeze(self) -> str:
        """The freeze mode, used when fine-tuning chooses the layers."""
        return self.freeze or "heavy"

    @property
    def resolved_scope(self) -> str:
        """The part whose layers are ranked, used when fine-tuning chooses the layers."""
        return self.freeze_scope or "trunk"

    @property
    def resolved_estimator(self) -> str:
        """The estimator of alphas, used when fine-tuning chooses the layers."""
        return self.estimator or "xmin_peak"


@dataclass(frozen=True)
class FinetuneControls(Options):
    """How a run of `finetune` works; none of this changes the result, except by rounding.

    Cached features and split parameters are computed in another order, so the weights differ by rounding.
    """

    workers: int = workers(0, "processes that make crops ahead", panel=_RUNNING)
    save_every: int = option(
        100, least=1, help="steps between two states on disk, from which --resume goes on", panel=_RUNNING
    )
    log: Path | None = option(None, help="file of JSON lines, one for each step", unset="OUT.log.jsonl", panel=_RUNNING)
    tensorboard: Path | None = option(
        None, help="folder for TensorBoard's event files; needs the extra opentrans-cli[tensorboard]", panel=_RUNNING
    )
    eval_every: int = option(
        0, least=0, help="steps between two evaluations on the validation split; 0 for none", panel=_RUNNING
    )
    eval_limit: int = option(50, least=1, help="number of images of each evaluation", panel=_RUNNING)
    eval_split_list: Path | None = option(
        None, help="text file with the stems of the images to evaluate on; for own photos", panel=_RUNNING
    )
    max_minutes: float | None = option(
        None,
        above=0,
        help="minutes after which the run stops, with a state for --resume and exit code 75",
        panel=_RUNNING,
    )
    cache_features: Path | None = option(
        None,
        help="folder for the features of the frozen prefix, each crop computed once; needs --views",
        panel=_FREEZING,
    )
    shard: bool = option(
        False,
        help="with several processes, let each hold a part of the parameters (FSDP2) instead of a copy",
        panel=_RUNNING,
    )
    timing_steps: int = option(
        0,
        least=0,
        help="number of steps of the run and of full training that are timed in turn before the first; 0 times none",
        panel=_COST,
    )
