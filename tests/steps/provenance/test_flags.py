"""The table of flags and the command line agree, in both directions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.cli.app import app
from opentrans_cli.datasets.base import DatasetOptions
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.provenance.flags import BEYOND, FLAGS, MEASURES
from opentrans_cli.steps.prune.options import PruneOptions


def parameters(verb: str) -> dict[str, Any]:
    """Flag -> parameter of the command."""
    command: Any = typer.main.get_command(app)
    return {flag: parameter for parameter in command.commands[verb].params for flag in parameter.opts}


ENTRIES = [(verb, option) for verb, flags in FLAGS.items() for option in flags]


@pytest.mark.parametrize(("verb", "option"), ENTRIES)
def test_every_flag_of_the_table_exists_and_takes_what_is_given(verb: str, option: str) -> None:
    flag = FLAGS[verb][option]
    if flag.kind in ("run", "source", "fixed"):
        return
    parameter = parameters(verb)[flag.spelled(option)]
    assert flag.kind == "value" or not parameter.is_flag
    assert parameter.multiple == (option in ("include", "exclude", "options"))


@pytest.mark.parametrize(
    ("verb", "options"),
    [("prune", PruneOptions()), ("analyze", AnalyzeOptions()), ("finetune", FinetuneOptions())],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_switches_are_true_or_false_in_the_record(verb: str, options: Any) -> None:
    for option, value in asdict(options).items():
        flag = FLAGS[verb][option]
        if flag.kind == "value":
            assert parameters(verb)[flag.spelled(option)].is_flag == isinstance(value, bool), option


def test_all_that_a_data_set_is_told_is_in_the_table() -> None:
    names = asdict(DatasetOptions()).keys()
    assert names <= FLAGS["finetune"].keys() and names <= FLAGS["eval"].keys()


def test_every_option_that_steps_record_is_in_the_table(run_cli: Any, tmp_path: Path, tiny_bundle: Path) -> None:
    quick = ("--images", "shapes", "--image-limit", 4, "--batch-size", 2, "--score-images", 2, "--final-steps", 1)
    lines = [
        ("prune", "tiny", "-s", 0.1, *quick, "--keep-rounds", "masks", "-o", tmp_path / "a"),
        ("eval", tmp_path / "a", "--curve", "--limit", 1),
        ("analyze", tmp_path / "a"),
        ("transfer", tmp_path / "a", "-o", tmp_path / "b"),
        ("eval", tmp_path / "b", "--at-sparsity", 0.1, "--limit", 1),
        ("finetune", tmp_path / "b", "--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2, "-o", tmp_path / "c"),
    ]
    tower = {name: torch.from_numpy(array.copy()) for name, array in open_bundle(tiny_bundle).tower().items()}
    torch.save(tower, tmp_path / "d.pth")
    lines.append(("import", tmp_path / "d.pth", "--base", "tiny", "-o", tmp_path / "d"))
    for line in lines:
        assert run_cli(*line, "--quiet").exit_code == 0
    steps = [step for name in "abcd" for step in open_bundle(tmp_path / name).manifest.steps]
    assert {step.verb for step in steps} == FLAGS.keys()
    for step in steps:
        assert step.options.keys() <= FLAGS[step.verb].keys(), step.verb


def test_verbs_are_known_as_one_kind() -> None:
    assert set(MEASURES) < FLAGS.keys() and not set(BEYOND) & FLAGS.keys()
    command: Any = typer.main.get_command(app)
    assert FLAGS.keys() <= command.commands.keys()
