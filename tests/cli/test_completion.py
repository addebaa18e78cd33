"""Tab in a shell: what bash and zsh get from the program, in the way they ask for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from opentrans_cli.cli.app import COMMANDS, app
from opentrans_cli.cli.completion import completer
from opentrans_cli.datasets import DATASETS
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.option import stated
from opentrans_cli.steps.prune.options import PRUNE_RECIPES

VARIABLE = "_OPENTRANS_COMPLETE"


@pytest.fixture
def desk(nested_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a bundle of several rounds, a photo folder, and a pulled bundle in the cache."""
    desk = tmp_path / "desk"
    shutil.copytree(nested_bundle("trained"), desk / "subnet")
    (desk / "shots").mkdir()
    (desk / "shots" / "one.png").touch()
    pulled = tmp_path / "cache" / "hub" / "ada--subnet" / ("0" * 40)
    shutil.copytree(desk / "subnet", pulled)
    (pulled.parent / "revisions.json").write_text(json.dumps({"v1": "0" * 40}))
    monkeypatch.chdir(desk)
    monkeypatch.setenv("OPENTRANS_CACHE", str(tmp_path / "cache"))
    return desk


def offered(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv(VARIABLE, "complete_bash")
    return CliRunner().invoke(app, [], prog_name="opentrans").stdout.split()


def test_names_of_every_kind_are_offered(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line, expected in (
        ("opentrans ver", ["verify"]),
        ("opentrans prune --crit", ["--criterion"]),
        ("opentrans prune --criterion f", ["folded", "fisher"]),
        ("opentrans prune --recipe ", list(PRUNE_RECIPES)),
        ("opentrans finetune --framework ", list(FRAMEWORKS.names())),
        ("opentrans eval --dataset ", list(DATASETS.names())),
        ("opentrans datasets pre", ["prepare"]),
        ("opentrans datasets prepare voc", ["voc-20", "voc-21"]),
        ("opentrans prune --device c", ["cpu", "cuda"]),
        ("opentrans prune --pattern l", ["layerwise"]),
        ("opentrans transfer subnet --to o", ["open-clip", "onnx"]),
        ("opentrans prune ", ["tiny", "subnet", "hf://ada/subnet@v1"]),
        ("opentrans prune RN101:o", ["RN101:openai"]),
        ("opentrans finetune ", ["subnet", "hf://ada/subnet@v1"]),
        ("opentrans verify subnet --parent su", ["subnet"]),
        ("opentrans analyze --against b", ["base"]),
        ("opentrans prune --images sh", ["shapes", "shots/"]),
        ("opentrans prune --images shots/", ["shots/one.png"]),
        ("opentrans prune tiny --include conv", ["conv1", "conv2", "conv3"]),
        ("opentrans analyze subnet --exclude layer1.0.conv", [f"layer1.0.conv{number}" for number in (1, 2, 3)]),
        ("opentrans finetune subnet --prefix-end layer1", ["layer1.0"]),
        ("opentrans transfer subnet --at-sparsity 0.", ["0.2", "0.5", "0.8"]),
        ("opentrans eval subnet --at-sparsity 0.", ["0.2", "0.5", "0.8"]),
        ("opentrans eval --comp", ["--compare"]),
        ("opentrans eval --compare subnet su", ["subnet"]),
    ):
        assert offered(line, monkeypatch) == expected, line


def test_where_nothing_is_known_the_shell_completes_paths(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (
        "opentrans prune shots/",
        "opentrans import ",
        "opentrans prune --config ",
        "opentrans transfer none --at-sparsity ",
        "opentrans prune none --include ",
    ):
        assert offered(line, monkeypatch) == [], line


def test_zsh_gets_the_meanings_as_well(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "complete_zsh")
    for line, expected in (
        ("opentrans prune --schedule r", """_arguments '*: :(("rounds":"a share of what is left"))'"""),
        ("opentrans import ", "_files"),
    ):
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        assert CliRunner().invoke(app, [], prog_name="opentrans").stdout.strip() == expected


def test_every_option_with_names_offers_them_and_a_failure_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context: Any = typer.Context(typer.main.get_command(app))
    for function, _ in COMMANDS.values():
        for group in function.groups:
            for _, said in stated(group):
                offer = completer(said)
                assert (offer is None) == (not said.choices and not said.known and said.completes is None)
                if offer is not None and said.completes is None:
                    assert {name for name, _ in offer(context, "")} >= {*said.choices, *said.known}
    monkeypatch.setattr(os, "scandir", lambda *arguments: 1 / 0)
    said = {field.name: said for field, said in stated(COMMANDS["prune"][0].groups[0])}["source"]
    offer = completer(said)
    assert offer is not None and offer(context, "t") == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_script_for_a_shell_is_shown_and_a_completion_loads_no_torch(shell: str, tmp_path: Path) -> None:
    code = (
        "import atexit, sys\nfrom opentrans_cli.cli.app import main\n"
        "atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\nsys.argv[0] = 'opentrans'\nmain()"
    )
    line = "opentrans prune RN50-quickgelu:o"
    asked = {
        VARIABLE: f"complete_{shell}",
        "COMP_WORDS": line.replace(" ", "\n"),
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": line,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True, cwd=tmp_path
    )
    assert re.search("RN50-quickgelu.*:openai", done.stdout) and done.stderr == "False\n"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {VARIABLE: f"source_{shell}"}, capture_output=True, text=True
    )
    assert f"complete_{shell}" in shown.stdout and "opentrans" in shown.stdout
