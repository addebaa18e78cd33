"""The shape of the package: who may import whom, what stays unloaded, how long things may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "opentrans_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

MIDDLE = ["sparsity", "spectral", "distill", "frameworks", "datasets", "metrics", "training", "kernels", "pictures"]
LEVELS = {"errors": 0, "catalog": 1, "bundle": 2, "clip": 2, "assets": 2} | dict.fromkeys(MIDDLE, 3)
LEVELS |= {"steps": 4, "cli": 5}
NEIGHBOURS_ALLOWED = {("clip", "assets")}

MAX_FILE_LINES = 300
MAX_BODY_LINES = 40


def area(path: Path) -> str:
    """opentrans_cli/clip/text.py -> "clip"; errors.py -> "errors"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def imported_modules(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file; `from x import y` counts as x and as x.y."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports relatively"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def areas_imported(path: Path) -> set[str]:
    ours = (module.split(".") for module in imported_modules(path) if module.split(".")[0] == "opentrans_cli")
    return {parts[1] for parts in ours if len(parts) > 1 and parts[1] in LEVELS}


def test_every_folder_and_file_of_the_package_has_a_level() -> None:
    special = {"__init__", "__main__"}
    assert {area(path) for path in FILES} - special <= LEVELS.keys()


@pytest.mark.parametrize("folder", ["clip", "datasets", "distill", "frameworks", "sparsity", "steps", "training"])
def test_every_file_stands_in_the_map_of_its_folder(folder: str) -> None:
    files = sorted((PACKAGE / folder).glob("*.py"))
    map_of_folder = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = set(re.findall(r"\w+", map_of_folder))
    assert [path.stem for path in files if path.stem not in {"__init__", *named}] == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    own = area(path)
    if own == "__main__":
        assert areas_imported(path) == {"cli"}
        return
    if own == "__init__":  # the one function for people who write training loops
        assert {name for name in imported_modules(path) if name.startswith("opentrans_cli")} == {
            "opentrans_cli.steps.attach",
            "opentrans_cli.steps.attach.attach",
        }
        return
    level = LEVELS[own]
    wrong = {
        other
        for other in areas_imported(path) - {own}
        if LEVELS[other] >= level and (own, other) not in NEIGHBOURS_ALLOWED
    }
    assert not wrong, f"{own} may not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    ("module", "owner"), [("open_clip", "clip"), ("typer", "cli"), ("rich", "cli"), ("torch", "bundle")]
)
def test_a_library_has_one_place(module: str, owner: str) -> None:
    """open_clip is imported by clip/ alone, typer and rich by cli/ alone; bundle/ does without torch."""
    users = {area(path) for path in FILES if module in {name.split(".")[0] for name in imported_modules(path)}}
    if module == "torch":
        assert owner not in users
    else:
        assert users == {owner}


@pytest.mark.parametrize(
    "entry", ["opentrans_cli.cli.app", "opentrans_cli.steps.look.inspect", "opentrans_cli.steps.look.verify"]
)
def test_a_cold_start_loads_nothing_heavy(entry: str) -> None:
    heavy = ["torch", "open_clip", "transformers", "matplotlib", "PIL", "scipy", "huggingface_hub"]
    code = f"import sys, {entry}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom opentrans_cli.cli.app import app\n"
        "for line in ['--help', 'prune --help', 'finetune --help', 'segment --help']:\n"
        "    assert CliRunner().invoke(app, line.split()).exit_code == 0\n"
        "print('torch' in sys.modules, 'open_clip' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_no_file_is_called_utils() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "util", "helpers", "misc", "common")]


def test_files_stay_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > MAX_FILE_LINES}


def test_functions_stay_short() -> None:
    """The lines of the body count, not those of the signature and the docstring."""
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1
                if lines > MAX_BODY_LINES:
                    long[f"{name_of(path)}:{node.name}"] = lines
    assert not long
