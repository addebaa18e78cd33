"""Recipes of `prune`: named sets of option values; what a user says beside one wins."""

from __future__ import annotations

from typing import Any

from opentrans_cli.errors import OptionError

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
