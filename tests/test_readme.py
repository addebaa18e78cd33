"""What the documents say is true: commands and options, files and links, metadata, the format as the code writes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

import opentrans_cli
from opentrans_cli.bundle import manifest as m
from opentrans_cli.bundle.schema import kinds, load_schema
from opentrans_cli.cli.app import COMMANDS
from opentrans_cli.clip.key_tables import table_names
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.option import Statement, stated
from opentrans_cli.sparsity.patterns import PATTERNS
from opentrans_cli.steps.transfer.onnx import ONNX
from opentrans_cli.steps.transfer.open_clip import OPEN_CLIP
from opentrans_cli.steps.transfer.patch import PATCH

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted((ROOT / "docs").glob("*.sh"))
FORMAT = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
REFERENCE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")

# Command -> its options, each a field and what is stated of it.
OFFERED = {name: [each for group in f.groups for each in stated(group)] for name, (f, _) in COMMANDS.items()}
# What takes names of several tables; --pattern takes N:M as well.
MIXED: dict[str, set[str]] = {
    "--to": {*FRAMEWORKS.names(), OPEN_CLIP, ONNX, PATCH, *table_names()},
    "--pattern": {*PATTERNS.names()} - {"n_m"},
}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(document: Path, *languages: str) -> list[str]:
    """The code blocks of a Markdown file in these languages."""
    return [text for language, text in _BLOCK.findall(document.read_text(encoding="utf-8")) if language in languages]


def calls(script: str) -> Iterator[list[str]]:
    """The arguments of every `opentrans ...` or `-m opentrans_cli ...` in shell, up to the end of that command."""
    for line in script.replace("\\\n", " ").splitlines():
        code = "" if line.lstrip().startswith("#") else line
        for match in re.finditer(r"(?<![\w./-])opentrans(?:_cli)? (?P<rest>[a-z-].*)", code):
            lexer = shlex.shlex(match["rest"], posix=True, punctuation_chars=True)
            lexer.commenters = "#"
            lexer.wordchars += ":"
            arguments: list[str] = []
            for word in lexer:
                if set(word) <= set("();<>|&"):
                    break
                arguments.append(word)
            yield arguments


CALLS = [
    *((name_of(path), call) for path in DOCUMENTS for text in blocks(path, "bash") for call in calls(text)),
    *((name_of(path), call) for path in SCRIPTS for call in calls(path.read_text(encoding="utf-8"))),
]
MENTIONS = [
    (name_of(path), span)
    for path in DOCUMENTS
    for span in re.findall(r"`(opentrans [a-z-][^`]*)`", _BLOCK.sub("", path.read_text(encoding="utf-8")))
]


def ways_to_type(field: Field[Any], said: Statement) -> tuple[str, ...]:
    name = said.spelled(field.name)
    return (name, *said.also, f"--no-{name[2:]}") if field.default is True else (name, *said.also)


def check_options(command: str, given: list[str]) -> None:
    """Every option is the command's own, and a choice is one of those that are stated."""
    known = {name: said for field, said in OFFERED[command] for name in ways_to_type(field, said) if not said.argument}
    for option, value in zip(given, [*given[1:], ""], strict=False):
        if not option.startswith("-") or option in ("--help", "-h"):
            continue
        assert option in known, f"opentrans {command} has no {option}"
        choices = MIXED.get(option, known[option].choices)
        if choices and "$" not in value:
            n_of_m = option == "--pattern" and re.fullmatch(r"\d+:\d+", value)
            assert n_of_m or value in choices, f"{option} does not take {value}"


def test_the_documents_show_every_command() -> None:
    assert {call[0] for _, call in CALLS} == set(COMMANDS)


def test_a_command_in_a_document_could_be_typed() -> None:
    """Command and options exist, and nothing required is missing; `"${DATA[@]}"` may bring further options."""
    for where, (command, *rest) in CALLS:
        assert command in COMMANDS, where
        check_options(command, rest)
        switches = {name for each in OFFERED[command] if each[0].type == "bool" for name in ways_to_type(*each)}
        values = {i + 1 for i, word in enumerate(rest) if word.startswith("-") and word not in {"--help", *switches}}
        bare = [word for i, word in enumerate(rest) if not word.startswith("-") and i not in values]
        required = [(field, said) for field, said in OFFERED[command] if field.default is MISSING]
        for field, said in required:
            named = said.argument or set(ways_to_type(field, said)) & set(rest)
            assert named, f"{where}: --{field.name} is missing: {command} {rest}"
        if not {"--help", "-h"} & set(rest):
            arguments = sum(said.argument for _, said in required)
            assert len(bare) >= arguments, f"{where}: argument missing: {command} {rest}"


def test_a_command_mentioned_in_a_sentence_exists() -> None:
    assert len(MENTIONS) > 10
    for where, span in MENTIONS:
        command, *rest = span.split()[1:]
        if command.startswith("-"):
            assert command in ("--version", "--help", "--install-completion", "--show-completion"), where
        else:
            assert command in COMMANDS, (where, span)
            check_options(command, rest)


def test_the_reference_has_a_section_for_every_command_in_order() -> None:
    assert re.findall(r"^## (\S+)$", REFERENCE, re.MULTILINE) == list(COMMANDS)


def test_every_file_of_the_readme_exists_and_every_package_is_in_it() -> None:
    tree = next(text for text in blocks(README, "") if "opentrans_cli/cli/" in text)
    listed = {line.split()[0] for line in tree.splitlines()}
    assert not [path for path in listed if not (ROOT / path).exists()]
    inside = [path for path in (ROOT / "opentrans_cli").iterdir() if not path.name.startswith("_")]
    assert {f"opentrans_cli/{path.name}{'/' * path.is_dir()}" for path in inside} <= listed


def test_links_inside_the_repository_lead_somewhere() -> None:
    assert len(DOCUMENTS) > 5
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", text)):
            if "://" in target:
                continue
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), f"{name_of(document)} links to {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
                assert anchor in slugs, f"{name_of(document)} links to {target}"


def test_every_document_is_on_the_map() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {p.name for p in (ROOT / "docs").iterdir()} - {"index.md"} <= set(re.findall(r"\]\(([^)]+)\)", index))


def test_the_check_runs_the_two_commands_of_the_readme() -> None:
    """Marker, block, one line: what .ci/run looks for stands in the README once, and .ci/run asks for both."""
    text, check = README.read_text(encoding="utf-8"), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for name in ("demo", "test"):
        assert text.count(f"<!-- {name} -->") == 1
        found = re.search(rf"^<!-- {name} -->\n```bash\n(.+)\n```$", text, re.MULTILINE)
        assert found and found[1].startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert f"$(readme_command {name})" in check
    assert "pip install" not in check, "the commands come from the README alone"


def test_the_readme_agrees_with_the_package() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^requires-python = ">=([\d.]+)"$', project, re.MULTILINE)
    licence = re.search(r'^license = "(.+)"$', project, re.MULTILINE)
    script = re.search(r'^opentrans = "(.+):(.+)"$', project, re.MULTILINE)
    assert version and licence and script
    text = README.read_text(encoding="utf-8")
    assert f"Python {version[1]} or newer" in text
    assert f"{licence[1]}, see [LICENSE](LICENSE)" in text
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased" and opentrans_cli.__version__ in versions


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(README, "python")
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "subnet: 50,093 of 500,928 weights are left\n"


def test_the_picture_of_the_documents_is_the_scene_it_is_said_to_be() -> None:
    from opentrans_cli.datasets.images import read_image
    from opentrans_cli.datasets.shapes import ShapesDataset

    scene = ShapesDataset("val", size=128)[12]
    assert np.array_equal(read_image(ROOT / "docs" / "scene.png"), scene.image)


# The format.


def test_the_format_names_every_field() -> None:
    for record in (m.Manifest, m.Base, m.LayerEntry, m.FileEntry, m.Step, m.SegmentorRecord):
        names = {field.name for field in fields(record)} | ({"format"} if record is m.Manifest else set())
        assert not {name for name in names if f"`{name}`" not in FORMAT}, record


def test_the_format_names_every_file_dtype_and_report() -> None:
    schema = load_schema()["$defs"]
    for file in ("mask", "weights", "rounds", "round_weights", "alpha", "segmentor"):
        assert m.FILE_NAME.fullmatch(f"{file}.safetensors") and f"`{file}.safetensors`" in FORMAT
    names = ["README.md", "reports/NAME.json", "reports/NAME.png", *m.DTYPES, *(set(kinds()) - {"manifest"})]
    names += list(schema["base"]["properties"]["preprocess"]["properties"])
    assert not {name for name in names if f"`{name}`" not in FORMAT}


def test_the_format_names_all_that_stands_in_an_alpha_file(tmp_path: Path, run_cli: Any) -> None:
    assert run_cli("prune", "tiny", "-s", "0.5", "-o", tmp_path / "b").exit_code == 0
    assert run_cli("analyze", tmp_path / "b").exit_code == 0
    with safe_open(tmp_path / "b" / "alpha.safetensors", framework="numpy") as file:
        columns = {name for name in file.keys() if not name.startswith("eigenvalues.")}  # noqa: SIM118
        metadata = json.loads(file.metadata()["opentrans"])
    assert not {name for name in {*columns, *metadata, "eigenvalues.<layer>"} if f"`{name}`" not in FORMAT}
