"""opentrans datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.cli.output import tell
from opentrans_cli.datasets.options import Split, root_folder
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.prepare.prepare import PrepareResult

_SHOWN = 10
"""So many bad pictures are named; --json has all of them."""


@dataclass(frozen=True)
class DatasetsRequest(Options):
    """What is done with which published data set."""

    action: str = option(
        help="what is done",
        argument=True,
        choices={"prepare": "convert the download of a data set into another layout"},
    )
    dataset: str = option(help="a published data set, as `--dataset` of `eval` names it", argument=True)
    root: Path | None = root_folder()
    split: Split = option("val", help="which images", choices=("train", "val"))
    layout: str | None = option(
        None, help="the layout to write: fc-clip, detectron2 or opentrans", unset="the first of the data set"
    )


@command
def datasets_command(asked: DatasetsRequest, talk: Talk) -> None:
    """Convert the download of a published data set once, so that it can be read here and by other programs.

    opentrans datasets prepare ade20k-847 --root /data
    opentrans datasets prepare context-459 --layout opentrans
    """
    from opentrans_cli.steps.prepare.prepare import prepare

    result = prepare(asked.dataset, root=asked.root, split=asked.split, layout=asked.layout, reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show_prepared(console, result), result.labels)
    if not result.ok:
        for each in result.bad[:_SHOWN]:
            tell(f"opentrans: {each.problem}")
        more = f" (--json names all {len(result.bad)})" if len(result.bad) > _SHOWN else ""
        typer.echo(
            f"opentrans: error: {len(result.bad)} pictures were not converted{more}; mend them, then the same command "
            "goes on",
            err=True,
        )
        raise typer.Exit(1)


def _show_prepared(console: Console, result: PrepareResult) -> None:
    from rich.markup import escape

    whole = result.written + result.there
    console.print(f"{escape(result.dataset)} ({result.split}) from {escape(result.source)}", soft_wrap=True)
    if not result.written and result.ok:
        console.print(f"all {whole:,} pictures were there", soft_wrap=True)
    else:
        size = human_bytes(result.bytes)
        console.print(f"{result.written:,} pictures written ({size}), {result.there:,} were there", soft_wrap=True)
    console.print(f"label maps: {escape(str(result.labels))}", soft_wrap=True)
    console.print(f"photos: {escape(str(result.images))}", soft_wrap=True)
