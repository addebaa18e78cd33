"""Options of `prune` and its recipes; light, so that `--help` can read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.errors import OptionError
from opentrans_cli.steps.by_name import by_name

# Recipes of `prune`: named sets of option values; what a user says beside one wins.


PRUNE_RECIPES: dict[str, dict[str, Any]] = {
    # OpenTrans, arXiv 2404.07448, Alg. 1, Sec. 4.1 and Table 7; batch, decay and clipping as in the released
    # configuration. The paper trains t steps before each cut, which is the same sequence of cuts and steps after the
    # first t.
    "paper": {
        "criterion": "magnitude",
        "pattern": "unstructured",
        "schedule": "rounds",
        "rate": 0.1,
        "distill": "text-guided",
        "steps_per_round": 5000,
        "final_steps": 5000,
        "batch_size": 28,
        "lr": 1e-4,
        "weight_decay": 0.05,
        "grad_clip": 0.01,
    },
    # Minutes instead of days: one cut, all steps after it.
    "fast": {"criterion": "fisher", "schedule": "one-shot", "distill": "image", "final_steps": 352},
}


def recipe_values(name: str) -> dict[str, Any]:
    """The option values of a recipe. Raises OptionError for an unknown name."""
    if name not in PRUNE_RECIPES:
        raise OptionError(f"unknown recipe: '{name}'; choose one of {', '.join(PRUNE_RECIPES)}")
    return PRUNE_RECIPES[name]


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


def prune_options(source: str | Path, recipe: str | None, given: Mapping[str, Any]) -> PruneOptions:
    """What is `given`, over the recipe's values, over the defaults. A pattern of one sparsity brings that along.

    Raises OptionError for an unknown recipe or name, or a value of the wrong kind.
    """
    values = {**(recipe_values(recipe) if recipe else {}), **given}
    kept, _, group = str(values.get("pattern", "")).partition(":")
    if "sparsity" not in values and kept.isdigit() and group.isdigit() and int(group) > 0:
        values["sparsity"] = 1 - int(kept) / int(group)
    options: PruneOptions
    (options,) = by_name("prune", {"source": source, **values}, PruneOptions)
    return options


def default_out(options: PruneOptions) -> Path:
    """Name of the bundle when none is given: "rn50-quickgelu-openai-s90", with "-random" for the random control."""
    stem = Path(options.source.removeprefix("hf://").rstrip("/")).name.lower()
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem)
    return Path(f"{safe}-s{100 * options.sparsity:g}{'-random' if options.random else ''}")
