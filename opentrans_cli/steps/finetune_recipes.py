"""Recipes of `finetune`: how the papers train each framework; what a user says beside one wins.

Values are those of the papers, else of the released configurations (docs/method.md). Captions stay out until asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any

from opentrans_cli.errors import OptionError
from opentrans_cli.steps.options import FinetuneOptions

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
    """What is `given`, over the recipe's values, over the defaults.

    Raises OptionError for an unknown recipe.
    """
    if recipe is None:
        return FinetuneOptions(**given)
    if recipe not in FINETUNE_RECIPES:
        raise OptionError(f"unknown recipe: '{recipe}'; choose one of {', '.join(FINETUNE_RECIPES)}")
    return FinetuneOptions(**{**FINETUNE_RECIPES[recipe], **given, "recipe": recipe})


def sources(options: FinetuneOptions, given: Collection[str]) -> dict[str, str]:
    """By option where its value is from: "given", "recipe" or "default"."""
    recipe = FINETUNE_RECIPES.get(options.recipe or "", {})
    names = [field.name for field in fields(options)]
    return {name: "given" if name in given else "recipe" if name in recipe else "default" for name in names}
