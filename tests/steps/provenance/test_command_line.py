"""Values of a record become shell words, and nothing that a terminal would act on."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from opentrans_cli.bundle.manifest import Step
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.cli.app import COMMANDS
from opentrans_cli.errors import OptionError
from opentrans_cli.option import stated
from opentrans_cli.steps.provenance.command_line import (
    BEYOND,
    FIXED,
    FLAGS,
    MEASURES,
    RUN,
    Inputs,
    command_of,
    quoted,
    text,
)


@pytest.mark.parametrize(
    "value", ["a\nb", "a\rb", "\x1b[2J", "\x00", "\x85", "a\u202eb", "a\u2028b", "\u200b", "\ud800"]
)
def test_characters_that_cannot_be_seen_are_refused(value: str) -> None:
    with pytest.raises(OptionError, match="characters that cannot be seen: 'images'"):
        text("images", value)


@pytest.mark.parametrize("value", [None, True, [], {}, object()])
def test_only_text_and_numbers_become_words(value: object) -> None:
    with pytest.raises(OptionError, match="neither text nor a number: 'images'"):
        text("images", value)


@pytest.mark.parametrize(
    "value", ["", " ", "'", "a'b", "$x", "`x`", "\\", "*", "é ü 図", "#", "~", "!", "-x", 1, 0.1, 1e-05, -3]
)
def test_the_shell_reads_back_what_was_quoted(value: str | int | float) -> None:
    word = quoted("images", value)
    assert shlex.split(word) == [str(value)]
    done = subprocess.run(["sh", "-c", f"printf '%s' {word}"], capture_output=True, check=True)
    assert done.stdout.decode() == str(value)


def step(verb: str, **options: object) -> Step:
    return Step(verb, options, 1, {}, None, None, {})


def line(made: Step, inputs: Inputs | None = None) -> str:
    return command_of(made, source='"$BASE"', out='"$out/1"', inputs=inputs or Inputs(), base="tiny")


def test_an_option_is_a_flag_and_a_null_is_none() -> None:
    made = step("prune", sparsity=0.5, include=["a.*", "b c"], exclude=[], random=True, mask_only=False, ignore=None)
    words = ["opentrans prune", "--include='a.*'", "--include='b c'", "--random", "--sparsity=0.5", "--seed=1"]
    assert line(made) == " \\\n    ".join([*words, '--out="$out/1"', '-- "$BASE"'])


def test_options_of_a_framework_are_pairs_as_transfer_reads_them() -> None:
    made = step("transfer", options={"clip_residual": False, "width": None, "output_stride": 8})
    assert "--option=clip_residual=false" in line(made)
    assert "--option=width=none" in line(made) and "--option=output_stride=8" in line(made)


def test_equal_paths_share_a_variable_and_others_have_their_own() -> None:
    inputs = Inputs()
    for images in ("p", "q", "p", "shapes"):
        made = line(step("prune", images=images), inputs)
    assert "--images=shapes" in made
    assert [(entry.name, entry.value) for entry in inputs] == [("IMAGES", "p"), ("IMAGES_2", "q")]


def test_a_base_that_had_moved_is_the_base_of_the_script() -> None:
    inputs = Inputs()
    assert '--base="$BASE"' in line(step("eval", base="/elsewhere/clip.pt"), inputs)
    assert [(entry.name, entry.value) for entry in inputs] == [("BASE", "tiny")]


@pytest.mark.parametrize("name", ["threads", "processes"])
@pytest.mark.parametrize("count", [0, -1, 2.0, True, "2", 10**5])
def test_a_number_of_threads_or_processes_is_a_number(name: str, count: object) -> None:
    with pytest.raises(OptionError, match=f"not a number of {name}"):
        line(step("prune", **{name: count}))


# The table of what is recorded.


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
        assert step.options.keys() <= FLAGS[step.verb].keys() | set(RUN) | FIXED.keys(), step.verb


def test_what_is_repeated_is_an_option_of_the_command_and_writes_to_no_place_of_its_own() -> None:
    assert set(MEASURES) < FLAGS.keys() and not set(BEYOND) & FLAGS.keys()
    for verb, flags in FLAGS.items():
        offered = {field.name: said for group in COMMANDS[verb][0].groups for field, said in stated(group)}
        assert {name: said for name, (_, said) in flags.items()}.items() <= offered.items()
        assert not flags.keys() & {"out", "log", "tensorboard", "force", "plot", "checkpoint"}
