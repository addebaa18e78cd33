"""`--config FILE`: a value in the file is the typed value, through the same checks, and what is typed wins."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.cli.app import COMMANDS
from opentrans_cli.cli.config import ConfigChoice, Offered, read_config
from opentrans_cli.option import stated

OFFERED = {
    command: {
        field.name: Offered(
            said,
            switch=field.default is True or field.default is False,
            several=isinstance(field.default, tuple) or said.kind == "pairs",
        )
        for group in function.groups
        if group is not ConfigChoice
        for field, said in stated(group)
    }
    for command, (function, _) in COMMANDS.items()
}


def test_every_option_is_a_key_by_its_field_and_by_every_long_flag(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for command, offered in OFFERED.items():
        for field, option in offered.items():
            flags = () if option.said.argument else (option.said.spelled(field), *option.said.also)
            value, read = ("true", True) if option.switch else ('"a"', ["a"] if option.several else "a")
            if option.said.kind == "commas":
                value, read = '["a", "b"]', "a,b"
            elif option.said.kind == "pairs":
                value, read = "{a = 1, b = true}", ["a=1", "b=true"]
            for key in {field, field.replace("_", "-"), *(flag[2:] for flag in flags if flag.startswith("--"))}:
                for text in (f"{key} = {value}\n", f"[{command}]\n{key} = {value}\n"):
                    file.write_text(text)
                    assert read_config(file, command, COMMANDS, offered) == {field: read}, (command, text)


def test_no_section_can_be_taken_for_an_option() -> None:
    for command, offered in OFFERED.items():
        assert not {field.replace("_", "-") for field in offered} & COMMANDS.keys(), command
    assert [field.name for field in fields(ConfigChoice)] == ["config"]


def test_a_run_by_a_file_is_the_run_that_was_typed(run_cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        f'quiet = true\n[prune]\nsource = "tiny"\nsparsity = 0.5\ndtype = "float16"\nexclude = ["conv2", "layer4.*"]\n'
        f'mask_only = false\nout = "{tmp_path}/b"\n[analyze]\nbootstrap = "nonsense, but of another command"\n'
    )
    options = ("-s", 0.5, "--dtype", "float16", "--exclude", "conv2", "--exclude", "layer4.*")
    for line in (
        ("--config", file),
        ("tiny", *options, "-o", tmp_path / "a"),
        ("--config", file, "-o", tmp_path / "c"),
    ):
        assert run_cli("prune", *line).exit_code == 0
    a, b, c = (open_bundle(tmp_path / name) for name in "abc")
    assert a.digest == b.digest == c.digest and a.manifest.steps == b.manifest.steps
    planned = run_cli("prune", "--config", file, "--exclude", "conv3", "-s", 0.75, "--dry-run", "--json")
    plan = json.loads(planned.stdout)
    assert [layer["name"] for layer in plan["layers"] if layer["reason"] == "not chosen"] == ["conv3"]
    assert plan["rounds"][-1]["sparsity"] == 0.75


def test_options_of_a_file_count_as_typed_and_win_over_a_recipe(run_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('[finetune]\nrecipe = "han"\nbatch-size = 8\nscale = [0.5, 1]\nflip = false\n')
    result = run_cli("finetune", "--show-recipe", "--json", "--config", tmp_path / "run.toml", "--lr", 0.5)
    rows = json.loads(result.stdout)["options"]
    given = {name: row["value"] for name, row in rows.items() if row["from"] == "given"}
    assert given == {"batch_size": 8, "scale": [0.5, 1.0], "flip": False, "lr": 0.5}
    assert rows["steps"] == {"value": 50_000, "from": "recipe"}


def test_what_is_wrong_in_a_file_is_told_in_one_line_with_the_nearest_name(refused: Any, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    for text, told in (
        ("sparcity = 1", f"prune has no such option: 'sparcity' in {file}; did you mean sparsity?"),
        ("[prune]\nzz = 1", f"prune has no such option: 'zz' in [prune] in {file}; see `opentrans prune --help`"),
        ("[prun]\nsparsity = 1", f"no command is called so: section [prun] in {file}; did you mean prune?"),
        ('config = "a"', f"prune has no such option: 'config' in {file}; see `opentrans prune --help`"),
        ("[prune]\nbatch-size = 4\nbatch_size = 4", "said twice, in two spellings: 'batch_size' in [prune] in "),
        ("sparsity = [0.5]", f"not one value: sparsity in {file} is a list; give one of them"),
        ("[prune.images]\nfolder = 1", f"not one value: images in [prune] in {file} is a table"),
        ("exclude = [[1]]", f"a list in a list, or a table in one: exclude in {file}; write a text or a number"),
        ("sparsity = 1.5", "out of range: --sparsity 1.5; give 0 or more, below 1"),
        ("sparsity = nan", "out of range: --sparsity nan"),
        ('criterion = "fishr"', "unknown criterion: 'fishr'; choose one of magnitude"),
        ("sparsity 1", f"not a TOML file: --config {file} ("),
    ):
        file.write_text(text)
        assert refused("prune", "tiny", "--config", file, code=2).startswith(told), text
    file.write_bytes(b"\xff")
    assert refused("prune", "tiny", "--config", file, code=2).startswith("not a TOML file: ")
    assert refused("prune", "tiny", "--config", tmp_path, code=2).startswith(f"cannot read: --config {tmp_path} (")
    file.write_text('[finetune]\nhold-out = ["a,b"]')
    assert refused("finetune", "--config", file, code=2).startswith("has a comma: 'a,b', hold-out in [finetune] in ")


def test_a_value_of_another_type_is_refused_as_if_it_was_typed(run_cli: Any, tmp_path: Path) -> None:
    for text in ("sparsity = true", 'sparsity = "much"', "seed = 1.5", 'skip-bad = "maybe"', "seed = 2026-11-28"):
        (tmp_path / "run.toml").write_text(text)
        result = run_cli("prune", "tiny", "--dry-run", "--config", tmp_path / "run.toml")
        assert result.exit_code == 2 and f"Invalid value for '--{text.split()[0]}'" in result.stderr, text
