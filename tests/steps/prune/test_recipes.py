"""Recipes name options that exist, with values that prune accepts."""

from __future__ import annotations

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.steps.prune.options import PRUNE_RECIPES, PruneOptions, prune_options


def test_a_recipe_gives_every_option_that_was_not_typed() -> None:
    for name, values in PRUNE_RECIPES.items():
        options, _ = prune_options("tiny", name, {"images": "shapes", "lr": 0.5})
        assert options == PruneOptions(**{**values, "source": "tiny", "images": "shapes", "lr": 0.5})


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    """OpenTrans, Alg. 1 and Table 7: p = 10 %, t = 5000, batch 28, learning rate 1e-4, magnitude, text-guided."""
    values = PRUNE_RECIPES["paper"]
    assert (values["criterion"], values["schedule"], values["distill"]) == ("magnitude", "rounds", "text-guided")
    assert (values["rate"], values["steps_per_round"], values["batch_size"], values["lr"]) == (0.1, 5000, 28, 1e-4)


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="unknown recipe: 'soup'; choose one of paper, fast"):
        prune_options("tiny", "soup", {})
