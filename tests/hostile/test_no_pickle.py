"""No pickle is ever written, and a foreign one is read as tensors alone: what the package's own source says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "opentrans_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

# They write or read pickles, or run what they read.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle"}
WRITERS = {("torch", "save"), ("np", "save"), ("numpy", "save"), ("np", "savez"), ("np", "savez_compressed")}
WRITERS |= {("torch.jit", "save"), ("torch.jit", "load"), ("torch.jit", "script"), ("torch.package", "PackageExporter")}
EXECUTORS = {"eval", "exec", "compile", "__import__"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


def calls(path: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """(what a call is made on, name, the call)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield ast.unparse(node.func.value), node.func.attr, node
            elif isinstance(node.func, ast.Name):
                yield "", node.func.id, node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_module_that_pickles_is_imported_but_for_the_name_of_its_error(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError", f"{name_of(path)}:{node.lineno}"
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names = [name for name in names if name != "pickle"]
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not MODULES & {name.split(".")[0] for name in names}, f"{name_of(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_that_writes_a_pickle_is_called(path: Path) -> None:
    wrong = [f"{name_of(path)}:{call.lineno}" for on, name, call in calls(path) if (on, name) in WRITERS]
    assert not wrong


def is_true(call: ast.Call, keyword: str) -> bool:
    return any(
        given.arg == keyword and isinstance(given.value, ast.Constant) and given.value.value is True
        for given in call.keywords
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_foreign_files_are_read_as_tensors_alone(path: Path) -> None:
    for on, name, call in calls(path):
        where = f"{name_of(path)}:{call.lineno}"
        if name == "load" and on == "torch":
            assert is_true(call, "weights_only"), where
            assert path.relative_to(PACKAGE).parts[0] == "clip", where
        if name == "load" and on in ("np", "numpy"):
            assert not any(given.arg == "allow_pickle" for given in call.keywords), where
        assert not any(given.arg == "trust_remote_code" for given in call.keywords), where


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_executed_or_imported_by_a_computed_name_but_the_catalogs_own(path: Path) -> None:
    """`catalog.py` alone imports by name, from tables that stand in the source."""
    for on, name, call in calls(path):
        where = f"{name_of(path)}:{call.lineno}"
        assert not (on == "" and name in EXECUTORS), where
        if name == "import_module":
            assert name_of(path) == "opentrans_cli/catalog.py" or isinstance(call.args[0], ast.Constant), where


def test_the_law_is_about_calls_that_are_there() -> None:
    """Foreign pickles are read somewhere, and names are looked up somewhere: the tests above see them."""
    found = {(on, name) for path in FILES for on, name, _ in calls(path)}
    assert ("torch", "load") in found and any(name == "import_module" for _, name in found)
