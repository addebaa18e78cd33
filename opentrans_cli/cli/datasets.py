"""opentrans datasets."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.cli.output import plain_table, tell
from opentrans_cli.datasets import PUBLISHED
from opentrans_cli.datasets.options import ROOT_VARIABLE, Split, root_folder
from opentrans_cli.errors import OptionError, PictureError
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.look.datasets import DatasetsResult, ListedDataset
    from opentrans_cli.steps.prepare.prepare import PrepareResult

_SHOWN = 10
"""So many bad pictures are named; --json has all of them."""


_THEN = "and then [green]opentrans datasets prepare {}[/]"


@dataclass(frozen=True)
class DatasetsRequest(Options):
    """Whether data sets are listed, or which one is converted."""

    action: str | None = option(
        None,
        help="what is done",
        argument=True,
        choices={"prepare": "convert the download of a data set into another layout"},
        unset="list all",
    )
    dataset: str | None = option(
        None, help="a published data set to prepare, as `--dataset` of `eval` names it", argument=True, known=PUBLISHED
    )
    root: Path | None = root_folder()
    split: Split | None = option(None, help="which images to prepare", choices=("train", "val"), unset="val")
    layout: str | None = option(
        None, help="the layout to write: fc-clip, detectron2 or opentrans", unset="the first of the data set"
    )
    out: Path | None = option(
        None,
        also=("-o",),
        help="PNG file for a contact sheet: a photo of each data set beside its label map",
    )


@command
def datasets_command(asked: DatasetsRequest, write: Force, talk: Talk) -> None:
    """List the published data sets, what of each lies on this disk and what is missing; or prepare one.

    opentrans datasets --root /data --out sheet.png
    opentrans datasets prepare ade20k-847 --root /data
    opentrans datasets prepare context-459 --layout opentrans
    """
    if asked.action == "prepare":
        if asked.dataset is None:
            raise OptionError("which data set? opentrans datasets prepare; add its name, `opentrans datasets` has all")
        if asked.out is not None or write.force:
            raise OptionError("prepare writes under the root, what is there stays: --out, --force; leave them out")
        _prepare(asked.dataset, asked, talk)
        return
    if asked.split is not None or asked.layout is not None:
        raise OptionError("nothing to prepare: --split, --layout; put `prepare NAME` before them or leave them out")
    from opentrans_cli.steps.look.datasets import datasets

    result = datasets(root=asked.root, out=asked.out, **vars(write), reporter=talk.reporter)
    if result.root is None:
        talk.reporter.say(f"no root folder, so nothing was looked for: add --root DIR, or set ${ROOT_VARIABLE}")
    talk.emit(result.to_json(), lambda console: _show_listed(console, result), result.sheet)


def _prepare(dataset: str, asked: DatasetsRequest, talk: Talk) -> None:
    from opentrans_cli.steps.prepare.prepare import prepare

    result = prepare(dataset, root=asked.root, split=asked.split or "val", layout=asked.layout, reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show_prepared(console, result), result.labels)
    if not result.ok:
        for each in result.bad[:_SHOWN]:
            tell(f"opentrans: {each.problem}")
        more = f" (--json names all {len(result.bad)})" if len(result.bad) > _SHOWN else ""
        raise PictureError(
            f"{len(result.bad)} pictures were not converted{more}; mend them, then the same command goes on"
        )


def _show_listed(console: Console, result: DatasetsResult) -> None:
    from rich.markup import escape
    from rich.table import Table

    from opentrans_cli.datasets.benchmarks.on_disk import prepare_command

    where = "" if result.root is None else f"under {result.root}"
    table = plain_table(escape(where), "data set", ">classes", ">train", ">val", "read as")
    for each in result.datasets:
        counts = {split.split: f"{split.images:,}" if split.whole else "-" for split in each.splits}
        layouts = dict.fromkeys(split.layout for split in each.splits if split.whole)
        read_as = "; ".join(layouts) or ("to be prepared" if each.to_prepare else "")
        table.add_row(each.name, str(each.classes), counts["train"], counts["val"], escape(read_as))
    console.print(table)
    missing = Table.grid(padding=(0, 2, 0, 1))
    for each in result.datasets:
        if all(split.whole for split in each.splits):
            continue
        if each.to_prepare:
            assert result.root is not None
            lacking = [split.split for split in each.splits if not split.whole]
            commands = [prepare_command(each.name, result.root, split) for split in lacking]
            steps = [f"[green]{escape(line)}[/]" for line in commands]
        else:
            steps = [f"[cyan]{escape(each.download)}[/]", *([_THEN.format(each.name)] if each.needs_prepare else ())]
        for row, line in enumerate((*steps, *map(escape, _missing(each)))):
            missing.add_row("" if row else each.name, line)
    if missing.row_count:
        console.print("\nWhat is missing, and where to get it:\n")
        console.print(missing)


def _missing(listed: ListedDataset) -> list[str]:
    """The folders and files of which there is nothing; those that differ in the split alone are one."""
    train, val = ([part.path for part in split.parts if not part.files] for split in listed.splits)
    both = [_both(*pair) for pair in zip(train, val, strict=True)] if len(train) == len(val) else [*train, *val]
    return list(dict.fromkeys(both))


def _both(train: str, val: str) -> str:
    """Two paths as one, with braces where they differ."""
    if train == val:
        return train
    start = _alike(train, val)
    end = _alike(train[start:][::-1], val[start:][::-1])
    inside = [path[start : len(path) - end] for path in (train, val)]
    return f"{train[:start]}{{{','.join(inside)}}}{train[len(train) - end :]}"


def _alike(first: str, second: str) -> int:
    """How many characters two texts have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


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
