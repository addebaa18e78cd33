"""What every command does with its output: stdout holds the result and nothing else, stderr the talk."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli import errors
from opentrans_cli.steps.look import verify

Given = dict[str, Path]

# Command -> its arguments, given where things are; all but the last two write to `out`.
WRITERS: dict[str, Callable[[Given], list[Any]]] = {
    "prune": lambda at: ["prune", "tiny", "--sparsity", 0.5, "-o", at["out"]],
    "prune --images": lambda at: [
        *("prune", "tiny", "--sparsity", 0.1, "--images", "shapes", "--image-limit", 4, "--batch-size", 2),
        *("--steps-per-round", 1, "--final-steps", 1, "-o", at["out"]),
    ],
    "transfer": lambda at: ["transfer", at["bundle"], "-o", at["out"]],
    "finetune": lambda at: [
        *("finetune", at["bundle"], "--steps", 1, "--batch-size", 2, "--limit", 2, "--crop", 64, "-o", at["out"]),
    ],
    "segment": lambda at: ["segment", at["segmentor"], at["photos"], "-w", "red square, grass", "-o", at["out"]],
    "eval --out": lambda at: ["eval", at["segmentor"], "--limit", 1, "--out", at["out"]],
}
MEASURERS: dict[str, Callable[[Given], list[Any]]] = {
    "eval": lambda at: ["eval", at["segmentor"], "--limit", 1],
    "analyze": lambda at: ["analyze", at["bundle"]],
}
READERS: dict[str, Callable[[Given], list[Any]]] = {
    "inspect": lambda at: ["inspect", at["bundle"]],
    "verify": lambda at: ["verify", at["bundle"]],
    "analyze tiny": lambda at: ["analyze", "tiny"],
    "transfer --dry-run": lambda at: ["transfer", at["bundle"], "--dry-run"],
}
COMMANDS = WRITERS | MEASURERS | READERS

every_command = pytest.mark.parametrize("command", COMMANDS)
every_writer = pytest.mark.parametrize("command", WRITERS)


@pytest.fixture
def at(bundle: Path, segmentor: Path, desk: Path, labelled_folder: Any) -> Given:
    return {"bundle": bundle, "segmentor": segmentor, "out": desk / "out", "photos": labelled_folder.images}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@every_command
def test_json_is_one_document_and_all_of_stdout(command: str, at: Given, run_cli: Any) -> None:
    result = run_cli(*COMMANDS[command](at), "--json")
    assert result.exit_code == 0
    assert isinstance(json.loads(result.stdout, parse_constant=refuse), dict)


@every_writer
def test_into_a_pipe_goes_the_written_path_and_nothing_else(command: str, at: Given, run_cli: Any) -> None:
    result = run_cli(*COMMANDS[command](at))
    assert (result.exit_code, result.stdout) == (0, f"{at['out']}\n")
    assert result.stderr and at["out"].exists()
    log = ["out.log.jsonl"] if command in ("finetune", "prune --images") else []
    assert sorted(path.name for path in at["out"].parent.iterdir()) == ["out", *log]


@pytest.mark.parametrize(("command", "into"), [("eval", "segmentor"), ("analyze", "bundle")])
def test_a_measurement_prints_the_bundle_it_was_added_to(command: str, into: str, at: Given, run_cli: Any) -> None:
    assert run_cli(*COMMANDS[command](at)).stdout == f"{at[into]}\n"


@pytest.mark.parametrize("command", READERS)
def test_a_command_that_writes_nothing_prints_its_table(command: str, at: Given, run_cli: Any) -> None:
    before = content(at["bundle"])
    result = run_cli(*COMMANDS[command](at))
    assert result.exit_code == 0 and len(result.stdout.splitlines()) > 5
    assert content(at["bundle"]) == before and not at["out"].exists()


@every_command
def test_quiet_silences_stderr(command: str, at: Given, run_cli: Any) -> None:
    result = run_cli(*COMMANDS[command](at), "--quiet")
    assert (result.exit_code, result.stderr) == (0, "") and result.stdout


@every_writer
def test_nothing_is_overwritten_without_force(command: str, at: Given, run_cli: Any) -> None:
    assert run_cli(*COMMANDS[command](at)).exit_code == 0
    folder = at["out"].parent
    before = content(folder)
    refused = run_cli(*COMMANDS[command](at))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("opentrans: error: ") and str(at["out"]) in refused.stderr
    assert "--force" in refused.stderr and refused.stderr.count("\n") == 1
    assert content(folder) == before
    assert run_cli(*COMMANDS[command](at), "--force").exit_code == 0
    assert content(folder).keys() == before.keys()


@every_writer
def test_the_folder_of_the_target_is_made(command: str, at: Given, run_cli: Any) -> None:
    at["out"] = at["out"].parent / "new" / "folder" / "out"
    result = run_cli(*COMMANDS[command](at))
    assert (result.exit_code, result.stdout) == (0, f"{at['out']}\n") and at["out"].exists()


@every_writer
def test_a_file_in_the_way_of_the_target_is_told_before_any_work_is_lost(command: str, at: Given, run_cli: Any) -> None:
    at["out"].write_text("mine")
    at["out"] = at["out"] / "below" / "out"
    result = run_cli(*COMMANDS[command](at), "--quiet")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("opentrans: error: ") and result.stderr.count("\n") == 1
    assert str(at["out"]) in result.stderr and "choose another --out" in result.stderr
    assert content(at["out"].parents[2]) == {"out": b"mine"}


@every_writer
def test_a_target_is_shown_as_it_is_named_whatever_brackets_it_has(command: str, at: Given, run_cli: Any) -> None:
    out = at["out"].with_name("new[") / "bold]"
    result = run_cli(*WRITERS[command](at | {"out": out}))
    assert (result.exit_code, result.stdout) == (0, f"{out}\n")
    assert command == "eval --out" or str(out) in result.stderr


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(run_cli: Any) -> None:
    result = run_cli()
    assert result.exit_code == 2 and "Usage: " in result.stdout and "finetune" in result.stdout


def test_the_version_is_the_package_s(run_cli: Any) -> None:
    import opentrans_cli

    for flag in ("--version", "-V"):
        result = run_cli(flag)
        assert (result.exit_code, result.stdout) == (0, f"opentrans {opentrans_cli.__version__}\n")


def test_an_unknown_option_is_wrong_usage(run_cli: Any) -> None:
    result = run_cli("prune", "tiny", "--sparsty", 0.5)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "No such option: --sparsty" in result.stderr


def test_the_module_and_its_exit_codes_work_as_a_process(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "opentrans_cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)

    done = run("prune", "tiny", "--sparsity", "0.5", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "tiny-s50\n", "")
    failed = run("verify", "nothing-here")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert (
        failed.stderr
        == "opentrans: error: no such bundle: 'nothing-here'; check the path, or make one with `opentrans prune`\n"
    )
    assert run("prune", "tiny", "--sparsity", "1").returncode == 2


CODES = {errors.OptionError: 2, errors.RunStopped: 75}


def kinds(base: type[errors.OpentransError]) -> list[type[errors.OpentransError]]:
    return [
        base,
        *(kind for child in base.__subclasses__() for kind in kinds(child) if child.__module__ == base.__module__),
    ]


def test_an_error_is_told_in_one_line_and_ends_with_its_code(run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in kinds(errors.OpentransError):

        def step(*_: Any, kind: type[errors.OpentransError] = kind, **__: Any) -> None:
            raise kind("cannot: it; do that")

        monkeypatch.setattr(verify, "verify", step)
        result = run_cli("verify", "somewhere")
        assert (result.exit_code, result.stdout) == (CODES.get(kind, 1), "")
        if kind is not errors.RunStopped:
            assert result.stderr == "opentrans: error: cannot: it; do that\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_while_the_result_is_told_says_where_it_is(
    number: signal.Signals, code: int, bundle: Path, desk: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opentrans_cli.cli.command.emit", lambda *told, **how: signal.raise_signal(number))
    result = run_cli("report", bundle, "-o", desk / "page.html")
    last = result.stderr.splitlines()[-1]
    assert last == f"opentrans: interrupted when everything was written: {desk / 'page.html'}"
    assert result.exit_code == code and (desk / "page.html").exists()
