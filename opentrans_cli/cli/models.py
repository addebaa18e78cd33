"""opentrans models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.look.models import ModelsResult


@dataclass(frozen=True)
class ModelsRequest(Options):
    """Which sources are listed."""

    word: str | None = option(
        None, help="list only sources with this in their name or family", unset="all", argument=True
    )
    cached: bool = option(False, help="list only sources that lie on this disk")


@command
def models_command(asked: ModelsRequest, talk: Talk) -> None:
    """List the sources that can be named, which of them lie on this disk, and how their towers can be pruned.

    opentrans models RN50
    opentrans models --cached
    """
    from opentrans_cli.steps.look.models import models

    result = models(**vars(asked), reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result, forms=asked.word is None))


def _show(console: Console, result: ModelsResult, *, forms: bool) -> None:
    from rich.markup import escape

    sources = plain_table("", "source", "tower", ">on this disk")
    for each in result.sources:
        size = "" if each.bytes is None or not each.cached else human_bytes(each.bytes)
        sources.add_row(escape(each.source), each.family or "", size)
    console.print(sources)
    places = plain_table("", "source", "lies at")
    for each in result.sources:
        if each.path is not None:
            places.add_row(escape(each.source), escape(each.path))
    if places.row_count:
        console.print(places)
    families = plain_table("", "tower", ">sources", "patterns of prune")
    for family in result.families:
        families.add_row(family.name, str(family.sources), ", ".join(family.patterns))
    console.print(families)
    if forms:
        table = plain_table("", "a source is one of", "")
        for form, meaning in result.forms.items():
            table.add_row(escape(form), meaning)
        console.print(table)
