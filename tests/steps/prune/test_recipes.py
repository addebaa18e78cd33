"""Recipes name options that exist, with values that prune accepts."""

from __future__ import annotations

from dataclasses import fields

import pytest

from opentrans_cli.errors import OptionError
from opentrans_cli.steps.prune.options import PRUNE_RECIPES, PruneOptions, recipe_values
from opentrans_cli.steps.prune.plan import check_options


@pytest.mark.parametrize("name", PRUNE_RECIPES)
def test_a_recipe_is_made_of_options_and_accepted(name: str) -> None:
    values = recipe_values(name)
    assert values.keys() <= {field.name for field in fields(PruneOptions)}
    check_options(PruneOptions(source="tiny", images="shapes", **values))


def test_the_paper_s_recipe_is_the_paper_s() -> None:
    """OpenTrans, Alg. 1 and Table 7: p = 10 %, t = 5000, batch 28, learning rate 1e-4, magnitude, text-guided."""
    values = recipe_values("paper")
    assert (values["criterion"], values["schedule"], values["distill"]) == ("magnitude", "rounds", "text-guided")
    assert (values["rate"], values["steps_per_round"], values["batch_size"], values["lr"]) == (0.1, 5000, 28, 1e-4)


def test_an_unknown_recipe_is_answered_with_the_known_ones() -> None:
    with pytest.raises(OptionError, match="unknown recipe: 'soup'; choose one of paper, fast"):
        recipe_values("soup")
