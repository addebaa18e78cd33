"""Every option of every command: its range ends where it says, its choices are those it lists, a slip is answered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, get_args

from opentrans_cli.bundle.manifest import DTYPES
from opentrans_cli.checkpoints.pruned import FORMATS
from opentrans_cli.cli.app import COMMANDS
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.crops import ScaleOf
from opentrans_cli.errors import OptionError
from opentrans_cli.option import Statement, stated
from opentrans_cli.sparsity.criteria import CRITERIA
from opentrans_cli.sparsity.schedule import SCHEDULES
from opentrans_cli.spectral.estimators import Window
from opentrans_cli.spectral.selection import FreezeMode
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.finetune.options import FINETUNE_RECIPES, FinetuneOptions
from opentrans_cli.steps.import_options import ImportOptions
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.shared_options import DataChoice
from opentrans_cli.training.settings import OptimizerName, Precision, ScheduleName

GROUPS = list(dict.fromkeys(group for function, _ in COMMANDS.values() for group in function.groups))
OPTIONS = [(group, field, said) for group in GROUPS for field, said in stated(group)]


def made(group: type, field: Field[Any], value: Any) -> Any:
    """A dataclass at its defaults but for one field."""
    needed = {other.name: None for other in fields(group) if other.default is MISSING}
    several = isinstance(field.default, tuple)
    return group(**{**needed, field.name: (value,) if several else value})


def told(group: type, field: Field[Any], value: Any) -> str:
    """What is said against the value; "" if nothing is."""
    try:
        made(group, field, value)
    except OptionError as error:
        return str(error)
    return ""


def edges(said: Statement, whole: bool) -> Iterator[tuple[float, bool]]:
    """Numbers at both ends of a range and just beyond them, and whether they belong to it."""
    for end, inside, away in (
        (said.least, True, -1),
        (said.above, False, 1),
        (said.most, True, 1),
        (said.below, False, -1),
    ):
        if end is not None:
            beside = end + away if whole else math.nextafter(end, away * math.inf)
            yield end, inside
            yield (int(beside) if whole else beside), not inside


def test_a_range_ends_where_it_says() -> None:
    count = 0
    for group, field, said in OPTIONS:
        kind = str(field.type).split(" ")[0]
        if kind not in ("int", "float", "tuple[float,"):
            continue
        refused = f"out of range: {said.spelled(field.name)} "
        for number, inside in edges(said, kind == "int"):
            assert told(group, field, number).startswith(refused) is not inside, (group, field.name, number)
            count += 1
        for number in (math.nan, math.inf, -math.inf) if kind != "int" else ():
            assert told(group, field, number).startswith(refused), (group, field.name, number)
    assert count > 20


def test_a_choice_is_one_of_those_listed_and_a_slip_is_answered_with_the_nearest() -> None:
    chosen = [(group, field, said) for group, field, said in OPTIONS if said.choices]
    assert chosen
    for group, field, said in chosen:
        for name in said.choices:
            assert not told(group, field, name).startswith("unknown "), name
        wrong = told(group, field, "nonsense")
        assert wrong.startswith("unknown ") and f"'nonsense'; choose one of {', '.join(said.choices)}" in wrong
        longest = max(said.choices, key=len)
        assert told(group, field, longest[:-1] + "x").endswith(f"; did you mean {longest}?")


def test_every_option_is_explained_in_a_phrase() -> None:
    for group, field, said in OPTIONS:
        text = said.described()
        assert len(text.split()) >= 2 and not text.endswith("."), (group, field.name)


def test_names_of_one_command_are_not_said_twice() -> None:
    for name, (function, _) in COMMANDS.items():
        flags = [
            flag
            for group in function.groups
            for field, said in stated(group)
            for flag in (said.spelled(field.name), *said.also)
        ]
        assert len(flags) == len(set(flags)), name


def test_the_choices_are_those_that_the_code_knows() -> None:
    for options, name, known in (
        (PruneOptions, "schedule", SCHEDULES),
        (PruneOptions, "dtype", DTYPES),
        (ImportOptions, "dtype", DTYPES),
        (ImportOptions, "format", FORMATS),
        (PruneOptions, "precision", set(get_args(Precision)) - {"float16"}),
        (PruneOptions, "criterion", CRITERIA.names()),
        (AnalyzeOptions, "freeze", get_args(FreezeMode)),
        (AnalyzeOptions, "window", get_args(Window)),
        (FinetuneOptions, "freeze", get_args(FreezeMode)),
        (FinetuneOptions, "scale_of", get_args(ScaleOf)),
        (FinetuneOptions, "optimizer", get_args(OptimizerName)),
        (FinetuneOptions, "schedule", get_args(ScheduleName)),
        (FinetuneOptions, "precision", get_args(Precision)),
        (FinetuneOptions, "recipe", tuple(FINETUNE_RECIPES)),
        (DataChoice, "dataset", DATASETS.names()),
    ):
        said = {field.name: said for field, said in stated(options)}[name]
        assert set(said.choices) == set(known), (options, name)
    criteria = {field.name: said for field, said in stated(PruneOptions)}["criterion"].choices
    assert {name: bool(why) for name, why in criteria.items()} == {
        name: CRITERIA.load(name).needs_images for name in CRITERIA.names()
    }
