"""The option surface is a promise: names, short forms and defaults change only on purpose.

After a wanted change: python tests/cli/test_option_surface.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from opentrans_cli.cli.app import app

COMMITTED = Path(__file__).with_name("option_surface.json")
_ROW = re.compile(
    r"^[│|]\s*(?P<required>\*?)\s+(?P<name>--?[a-z][\w-]*|[a-z]\w*(?:\.\.\.)?)"
    r"(?P<more>(?:,--[a-z][\w-]*)*)\s(?P<rest>.*)[│|]$"
)


def help_text(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "260", "NO_COLOR": "1"})
    assert result.exit_code == 0
    return result.stdout


def commands() -> list[str]:
    """Commands in the order of `opentrans --help`."""
    rows = [match for line in help_text().splitlines() if (match := _ROW.match(line))]
    return [row["name"] for row in rows if not row["name"].startswith("-")]


def surface(command: str) -> list[str]:
    """One entry per argument and option: "--out -o (required)", "--seed [0]"."""
    entries = []
    for line in help_text(command).splitlines():
        if (row := _ROW.match(line)) is None:
            continue
        short = re.match(r"\s*(-\w)\s", row["rest"])
        default = re.search(r"\[default: ([^\]]*)\]", row["rest"])
        more = row["more"].replace(",", " ").strip()
        parts = [row["name"], more, short[1] if short else "", f"[{default[1]}]" if default else ""]
        entries.append(" ".join([part for part in parts if part] + ["(required)"] * bool(row["required"])))
    return entries


def test_the_committed_list_has_every_command() -> None:
    assert list(json.loads(COMMITTED.read_text())) == commands()


@pytest.mark.parametrize("command", commands())
def test_options_and_defaults_are_those_of_the_committed_list(command: str) -> None:
    assert surface(command) == json.loads(COMMITTED.read_text())[command]


@pytest.mark.parametrize("command", commands())
def test_every_argument_and_option_is_explained(command: str) -> None:
    for line in help_text(command).splitlines():
        if row := _ROW.match(line):
            words = re.sub(r"<[^>]*>|\[[^\]]*\]|\s-\w\s", " ", row["rest"]).split()
            assert len(words) >= 2, f"{command} {row['name']} has no help"


def test_what_every_command_shares_is_named_alike() -> None:
    surfaces = {command: json.loads(COMMITTED.read_text())[command] for command in commands()}
    for command, entries in surfaces.items():
        assert "--json" in entries and "--help -h" in entries
        if command not in ("inspect", "verify", "provenance"):
            assert "--quiet -q" in entries
        if any(entry.startswith("--out") for entry in entries):
            assert "--force" in entries


if __name__ == "__main__":
    COMMITTED.write_text(json.dumps({command: surface(command) for command in commands()}, indent=2) + "\n")
