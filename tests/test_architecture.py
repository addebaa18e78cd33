"""The shape of the package: who may import whom, and what stays unloaded."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from opentrans_cli.assets import tiny_weights
from opentrans_cli.datasets.images import write_label_map
from opentrans_cli.steps.prune.prune import prune

PACKAGE = Path(__file__).parents[1] / "opentrans_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

PARTS = ["sparsity", "spectral", "distill", "frameworks", "datasets", "metrics", "training", "pictures"]
FLOORS = dict.fromkeys(["errors", "version", "assets", "quiet", "source_name"], 0)
FLOORS |= {"catalog": 1, "option": 1, "reporter": 1, "signals": 1}
FLOORS |= {"files": 2, "checkpoints": 3, "bundle": 4, "clip": 5} | dict.fromkeys(PARTS, 6)
FLOORS |= {"steps": 7, "cli": 8, "__init__": 9, "__main__": 9}
"""Rooms by floor: a room may import what is below it, and nothing beside or above it."""


def room(module: str) -> str:
    """opentrans_cli.clip.text -> "clip"; opentrans_cli itself, the public face -> "__init__"."""
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file; of ours the file itself, else what stands in the import."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno} imports relatively"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in whole)


def rooms_with(library: str) -> set[str]:
    """The rooms that import a library."""
    return {
        room(name) for name, path in MODULES.items() if library in {found.split(".")[0] for found in imported(path)}
    }


OWN = {module: {name for name in imported(path) if name in MODULES} - {module} for module, path in MODULES.items()}


def test_every_room_has_a_floor() -> None:
    assert len(FILES) > 100
    assert {room(module) for module in MODULES} == set(FLOORS)


def test_imports_go_down_and_neighbours_do_not_know_each_other() -> None:
    wrong = [
        f"{module} imports {other}"
        for module, others in OWN.items()
        for other in others
        if room(module) != room(other) and FLOORS[room(other)] >= FLOORS[room(module)]
    ]
    assert wrong == []


def test_no_files_import_each_other_in_a_circle() -> None:
    left = dict(OWN)
    while done := [module for module, others in left.items() if not others & left.keys()]:
        for module in done:
            del left[module]
    assert sorted(left) == []


def test_no_verb_knows_the_verb_that_comes_after_it() -> None:
    """Rooms of steps/ in an order: each may use those before it, and the foyer, which is no room, none of them."""
    known: dict[str, set[str]] = {}
    for module, others in OWN.items():
        parts = module.split(".")
        if parts[:2] == ["opentrans_cli", "steps"]:
            own = parts[2] if MODULES[module].parent != PACKAGE / "steps" else "the foyer"
            rooms = {o.split(".")[2] for o in others if o.startswith("opentrans_cli.steps.") and len(o.split(".")) > 3}
            known.setdefault(own, set()).update(rooms - {own})
    assert known["the foyer"] == set()
    while done := [verb for verb, others in known.items() if not others & known.keys()]:
        for verb in done:
            del known[verb]
    assert known == {}


@pytest.mark.parametrize(("module", "owner"), [("open_clip", "clip"), ("typer", "cli"), ("rich", "cli")])
def test_a_library_has_one_place(module: str, owner: str) -> None:
    users = {
        room(name) for name, path in MODULES.items() if module in {found.split(".")[0] for found in imported(path)}
    }
    assert users <= {owner}


def test_bundles_and_bytes_do_without_torch() -> None:
    """So that a bundle can be inspected, verified, pushed and pulled in the time of numpy's import."""
    users = {
        room(name) for name, path in MODULES.items() if "torch" in {found.split(".")[0] for found in imported(path)}
    }
    assert not users & {"bundle", "files"}


DRAW, SHARE = {"matplotlib", "PIL"}, {"huggingface_hub"}
BUILD = {"open_clip", "transformers", "torchvision", "timm", "sympy", "torch._dynamo"}
"""What a forward pass of a ResNet or a ViT does without."""
NUMPY = BUILD | {"torch", "scipy"}
"""What a command without a forward pass does without."""

UNLOADED = {
    "--help": NUMPY | DRAW | SHARE,
    "prune --help": NUMPY | DRAW | SHARE,
    "finetune --help": NUMPY | DRAW | SHARE,
    "segment --help": NUMPY | DRAW | SHARE,
    "prune tiny --sparsity 0.5 -o made": NUMPY | DRAW | SHARE,
    "prune {bundle} --sparsity 0.6 --dry-run": NUMPY | DRAW | SHARE,
    "import {file} --base tiny -o made": NUMPY | DRAW | SHARE,
    "analyze {file}": NUMPY | DRAW | SHARE,
    "analyze {bundle} -o made": NUMPY | SHARE,  # with a picture
    "transfer {bundle} --checkpoint {file} --dry-run": NUMPY | DRAW | SHARE,
    "inspect {bundle}": NUMPY | DRAW | SHARE,
    "verify {bundle}": NUMPY | DRAW | SHARE,
    "diff {bundle} {bundle}": NUMPY | DRAW | SHARE,
    "provenance {bundle}": NUMPY | DRAW | SHARE,
    "models --cached": NUMPY | DRAW,
    "doctor --no-imports --quiet": NUMPY | DRAW,
    "push {bundle} org/name --license mit --dry-run": BUILD,  # it compares the tower with what a stranger reads
    "pull org/name": NUMPY | DRAW,
    "eval --compare --published": NUMPY | DRAW | SHARE,
    "eval --predictions {maps} --labels {maps} --classes {classes}": NUMPY | SHARE | {"matplotlib"},
    "eval tiny --dataset shapes --limit 1": BUILD | {"scipy", "matplotlib"} | SHARE,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A bundle of the tiny CLIP, a file of its image tower with zeros in it, a label map and its classes."""
    folder = tmp_path_factory.mktemp("inputs")
    prune("tiny", sparsity=0.5, out=folder / "bundle")
    state = {name: array for name, array in load_file(tiny_weights()).items() if name.startswith("visual.")}
    save_file({name: np.where(abs(array) < 0.01, 0, array) for name, array in state.items()}, folder / "file")
    (folder / "maps").mkdir()
    write_label_map(folder / "maps" / "0.png", np.zeros((4, 4), np.uint8), np.zeros((1, 3), np.uint8))
    (folder / "classes").write_text("grass")
    return {name: str(folder / name) for name in ("bundle", "file", "maps", "classes")}


@pytest.mark.parametrize("command", UNLOADED)
def test_a_command_loads_only_what_it_uses(command: str, inputs: dict[str, str], tmp_path: Path) -> None:
    """The table above: what is not in `sys.modules` at the end of a command."""
    code = (
        "import atexit, sys\nfrom opentrans_cli.cli.app import main\n"
        "atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))\nmain()"
    )
    line = [sys.executable, "-c", code, *command.format(**inputs).split()]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(line, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (1 if command.startswith("pull") else 0), done.stderr  # nothing is on the Hub
    assert "Warning" not in done.stderr
    assert not UNLOADED[command] & set((tmp_path / "modules").read_text().split())


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "9"}, "None")],
)
def test_threads_wait_without_spinning_unless_the_user_has_chosen(given: dict[str, str], found: str) -> None:
    """Set before torch is imported, in the environment that worker processes and OpenMP see."""
    code = (
        "import atexit, os, sys\nfrom opentrans_cli.cli.app import main\nsys.argv[1:] = ['--version']\n"
        "atexit.register(lambda: print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY')))\nmain()"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", found]


def test_a_public_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {
        "main": ["opentrans_cli.__main__", "opentrans_cli.cli.app"]
    }


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]
