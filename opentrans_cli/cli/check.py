"""opentrans check."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.option import Options, option
from opentrans_cli.steps.check.options import CheckOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from opentrans_cli.steps.check.check import CheckResult, IdShare

ROWS, NAMES, SIZES = 40, 3, 3
"""So many ids, files of a finding, and sizes are shown; --json has all of them."""
_STYLES = {"fault": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class CheckRequest(Options):
    """Where samples go."""

    out: Path | None = option(
        None, also=("-o",), help="new folder for five photos with their label maps over them, and check.json"
    )


@command
def check_command(options: CheckOptions, asked: CheckRequest, write: Force, talk: Talk) -> None:
    """Say whether photos, label maps and classes fit together. Exit code 1 if training and scoring cannot work.

    opentrans check photos label-maps classes.txt
    opentrans check photos label-maps classes.txt --ignore 11 --out samples
    """
    from opentrans_cli.steps.check.check import check

    result = check(**vars(options), **vars(asked), **vars(write), reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)
    if not result.ok:
        faults = [each for each in result.findings if each.level == "fault"]
        more = f" (the first of {len(faults)} faults)" if len(faults) > 1 else ""
        typer.echo(f"opentrans: error: this data cannot work: {faults[0].what}{more}; {faults[0].move}", err=True)
        raise typer.Exit(1)


def _show(console: Console, result: CheckResult) -> None:
    from rich.markup import escape
    from rich.table import Table

    from opentrans_cli.steps.check.findings import counted

    console.print(f"{counted(result.pairs, 'pair')} of photo and label map{_sizes(result)}", markup=False)
    shown = _most(result.ids)
    if any(each.share for each in shown):
        console.print(_table(shown))
    if len(shown) < len(result.ids):
        console.print(f"and {counted(len(result.ids) - len(shown), 'id')} more (--json lists all)", markup=False)
    told = Table.grid(padding=(0, 2, 0, 0))
    for each in result.findings:
        style = _STYLES[each.level]
        told.add_row(f"[{style}]{each.level}[/]", escape(each.what))
        if each.names:
            rest = len(each.names) - NAMES
            more = f" and {rest:,} more (--json lists all)" if rest > 0 else ""
            told.add_row("", f"[dim]{escape(', '.join(each.names[:NAMES]))}{more}[/]")
        if each.move:
            told.add_row("", escape(f"> {each.move}"))
    if result.findings:
        console.print(told)
    if result.suggested_ignore is not None:
        console.print(f"suggested: --ignore {','.join(map(str, result.suggested_ignore))}", markup=False)
    if result.path is not None:
        console.print(f"samples: {result.path}", markup=False)
    if result.ok:
        console.print("[green]This data can work.[/]")


def _sizes(result: CheckResult) -> str:
    listed = [f"{count:,} of {size}" for size, count in list(result.sizes.items())[:SIZES]]
    rest = sum(list(result.sizes.values())[SIZES:])
    return f": {', '.join([*listed, *([f'{rest:,} of other sizes'] if rest else [])])}" if listed else ""


def _most(ids: Sequence[IdShare]) -> Sequence[IdShare]:
    """All ids of a short list; of a long one those with the most pixels, and first of all those without a class."""
    if len(ids) <= ROWS:
        return ids
    most = sorted((each for each in ids if each.share), key=lambda each: (each.name is not None, -each.share))[:ROWS]
    return [each for each in ids if each in most]


def _table(ids: Sequence[IdShare]) -> Table:
    from rich.markup import escape

    from opentrans_cli.pictures.legend import percentage

    table = plain_table("", ">id", "class", ">pixels", ">label maps")
    for each in ids:
        name = "[red]no class[/]" if each.name is None and not each.void else escape(each.name or "")
        name = f"{name} [dim]not labelled[/]".lstrip() if each.void else name
        table.add_row(str(each.id), name, percentage(each.share) if each.share else "-", f"{each.label_maps:,}")
    return table
