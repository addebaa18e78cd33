"""No pickle is ever written, and a foreign one is read as tensors alone: what the package's own source says."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "opentrans_cli"
NODES = [
    (path.relative_to(PACKAGE).as_posix(), node)
    for path in sorted(PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
]

# They write or read pickles, or run what they read.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle"}
WRITERS = {("torch", "save"), ("np", "save"), ("numpy", "save"), ("np", "savez"), ("np", "savez_compressed")}
WRITERS |= {("torch.jit", "save"), ("torch.jit", "load"), ("torch.jit", "script"), ("torch.package", "PackageExporter")}
EXECUTORS = {"eval", "exec", "compile", "__import__"}


READERS = {"checkpoints/pickle_data.py": {"pickle"}, "datasets/class_file.py": {"yaml"}}


class Call(NamedTuple):
    file: str
    on: str  # what it is made on: "torch" of torch.load(...), "" of open(...)
    name: str
    node: ast.Call

    def given(self, keyword: str) -> object:
        """The constant that a keyword is given; the node of anything else, None if it is left out."""
        value = next((given.value for given in self.node.keywords if given.arg == keyword), None)
        return value.value if isinstance(value, ast.Constant) else value


def calls() -> list[Call]:
    found = [(file, node.func, node) for file, node in NODES if isinstance(node, ast.Call)]
    named = [Call(file, "", func.id, node) for file, func, node in found if isinstance(func, ast.Name)]
    return named + [
        Call(file, ast.unparse(func.value), func.attr, node)
        for file, func, node in found
        if isinstance(func, ast.Attribute)
    ]


CALLS = calls()


def test_one_file_reads_pickles_by_pythons_own_reader_with_everything_replaced_that_calls() -> None:
    used = set()
    for file, node in NODES:
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            used.add(node.attr)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found = MODULES & {name.split(".")[0] for name in names}
        assert found <= READERS.get(file, set()), f"{file}: imports {names}"
    calling = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
    assert calling < used and used - calling <= {"_Unpickler", "UnpicklingError", "BYTEARRAY8"}
    methods = {
        node.name for file, node in NODES if isinstance(node, ast.FunctionDef) and file.startswith("checkpoints/")
    }
    assert {"find_class", "get_extension", "persistent_load", "_instantiate"} <= methods


def test_yaml_is_read_as_plain_data() -> None:
    used = {node.attr for _, node in NODES if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml"}
    assert used == {"safe_load", "YAMLError"}


def test_nothing_that_writes_a_pickle_is_called() -> None:
    assert [call for call in CALLS if (call.on, call.name) in WRITERS] == []


def test_foreign_files_are_read_as_tensors_alone() -> None:
    assert [call for call in CALLS if (call.on, call.name) == ("torch", "load")] == []
    arrays = [call for call in CALLS if call.name == "load" and call.on in ("np", "numpy")]
    assert [call for call in arrays if call.given("allow_pickle") is not None] == []
    assert [call for call in CALLS if call.given("trust_remote_code") is not None] == []


def test_nothing_is_executed_or_imported_by_a_computed_name_but_the_catalogs_own() -> None:
    """`catalog.py` and the public face import by name, from tables in the source, `clip` the modules of open_clip."""
    assert [call for call in CALLS if call.on == "" and call.name in EXECUTORS] == []
    lookups = [call for call in CALLS if call.name == "import_module"]
    assert any(call.file == "catalog.py" for call in lookups), "names are looked up somewhere"
    computed = [call for call in lookups if not isinstance(call.node.args[0], ast.Constant)]
    assert {call.file for call in computed} <= {"__init__.py", "catalog.py", "clip/open_clip.py"}
