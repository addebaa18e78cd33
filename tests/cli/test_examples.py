"""The lines that `--help` and the pages of docs/ show as examples are lines that the command line takes."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer

from opentrans_cli.cli.app import COMMANDS, app

DOCS = Path(__file__).parents[2] / "docs"


def parse(line: str) -> dict[str, Any]:
    """The parameters of a line `opentrans COMMAND ...`, pipes, redirections and comments left out; nothing is run."""
    built: Any = typer.main.get_command(app)
    words = shlex.shlex(line, posix=True, punctuation_chars="|&>;")
    words.whitespace_split = True
    _, command, *arguments = takewhile(lambda word: not set(word) <= set("|&>;"), words)
    return dict(built.commands[command].make_context(command, arguments).params)


def test_every_help_ends_with_examples_that_fit_the_screen_and_parse(run_cli: Any) -> None:
    for command, (function, _) in COMMANDS.items():
        title, *examples = function.epilog.replace("\\[", "[").splitlines()
        assert title == "Examples:" and 1 <= len(examples) <= 3, command
        screen = run_cli(command, "--help").stdout
        for line in examples:
            assert line.startswith(f"opentrans {command}") and len(line) <= 78 and line in screen, line
            assert parse(line), line


def test_examples_of_the_pages_parse() -> None:
    lines = [
        line
        for page in sorted(DOCS.glob("*.md"))
        for block in re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("opentrans ")
    ]
    assert len(lines) > 60
    for line in lines:
        parse(line)
