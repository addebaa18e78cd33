"""The reference has every option as it is stated, and the command line offers just those.

After a wanted change: python tests/cli/test_reference.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from opentrans_cli.cli.app import COMMANDS, app
from opentrans_cli.cli.command import Force, Resume, Talk
from opentrans_cli.cli.config import ConfigChoice
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.option import Statement, shown, stated
from opentrans_cli.steps.shared_options import BaseChoice, DataChoice, Machine, RoundChoice

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
SHARED = (Machine, Resume, Force, Talk, ConfigChoice, BaseChoice, RoundChoice)
DATA = (DataChoice, DatasetOptions)
_BLOCK = r"<!-- options: {} -->\n(.*?)<!-- end of options -->"

Entry = tuple[Field[Any], Statement]


def code(text: str) -> str:
    return f"`{text}`"


def names(field: Field[Any], said: Statement) -> list[str]:
    """The ways to type an option, or the name of an argument."""
    if said.argument:
        return [said.metavar or field.name.upper()]
    name = said.spelled(field.name)
    return [name, *([f"--no-{name[2:]}"] if field.default is True else []), *said.also]


def default(field: Field[Any], said: Statement) -> str:
    if field.default is MISSING:
        return "required"
    if field.default in (None, ()) or field.default is False:
        return said.unset or ""
    return code("--" + field.name.replace("_", "-") if field.default is True else shown(field.default))


def table(entries: list[Entry]) -> Iterator[str]:
    yield "| option | default | means |\n|---|---|---|\n"
    for field, said in entries:
        # Options in the text become code, where they do not stand in code already; a bar would end the cell.
        told = said.described(code).replace("|", r"\|")
        means = re.sub(r"(`[^`]*`)|(?<![\w-])(--[a-z][a-z-]*)", lambda found: found[1] or code(found[2]), told)
        yield f"| {', '.join(map(code, names(field, said)))} | {default(field, said)} | {means} |\n"


def entries(*groups: type) -> list[Entry]:
    return [entry for group in groups for entry in stated(group)]


def block(command: str) -> str:
    """What stands about the options of a command: its own by heading, and the names of those that are shared."""
    groups = COMMANDS[command][0].groups
    headings: dict[str, list[Entry]] = {}
    for field, said in entries(*(group for group in groups if group not in SHARED + DATA)):
        headings.setdefault(said.panel or "", []).append((field, said))
    parts = [f"{f'{heading}:' if heading else ''}\n\n{''.join(table(rows))}\n" for heading, rows in headings.items()]
    shared = [names(field, said)[0] for field, said in entries(*(group for group in groups if group in SHARED))]
    data = " and those of [data](#what-all-commands-share)" if DATA[0] in groups else ""
    return f"{''.join(parts).lstrip()}\nShared: {', '.join(map(code, shared))}{data}.\n"


def page() -> str:
    """The page with every block as the options are."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = {command: block(command) for command in COMMANDS}
    blocks |= {"all": "".join(table(entries(*SHARED))), "data": "".join(table(entries(*DATA)))}
    for name, lines in blocks.items():
        found = re.search(_BLOCK.format(name), text, re.DOTALL)
        assert found, f"no block of {name}"
        text = text[: found.start(1)] + lines + text[found.end(1) :]
    return text


def test_the_page_has_every_option_with_default_range_and_choices() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_command_line_offers_what_is_stated() -> None:
    built: Any = typer.main.get_command(app)
    for command, (function, _) in COMMANDS.items():
        found = {parameter.name: parameter for parameter in built.commands[command].params}
        stated_here = dict((field.name, (field, said)) for field, said in entries(*function.groups))
        assert found.keys() == stated_here.keys(), command
        for name, (field, said) in stated_here.items():
            parameter = found[name]
            if not said.argument:
                assert [*parameter.opts, *parameter.secondary_opts] == [
                    *([names(field, said)[0], *said.also]),
                    *names(field, said)[1 : 1 + (field.default is True)],
                ]
            assert parameter.required is (field.default is MISSING)
            if isinstance(field.default, str | int | float):
                assert parameter.default == field.default
            assert said.help[1:] in parameter.help.replace("\\[", "[")


def test_what_every_command_shares_is_named_alike() -> None:
    for command, (function, _) in COMMANDS.items():
        assert Talk in function.groups, command
        flags = {names(field, said)[0] for field, said in entries(*function.groups)}
        assert "--out" not in flags or "--force" in flags, command


def test_help_is_printed_by_every_command_with_every_word_in_brackets() -> None:
    for command, (function, _) in COMMANDS.items():
        result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "260", "NO_COLOR": "1"})
        assert result.exit_code == 0 and "--help" in result.stdout
        said = [said.help for _, said in entries(*function.groups)]
        assert [word for text in said for word in re.findall(r"\[.*?\]", text) if word not in result.stdout] == []


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
