"""opentrans push."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_bytes, plain_table

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.hub.push import PushResult


def push(
    bundle: o.BundleArg,
    repo: Annotated[str, typer.Argument(help="Repo on the Hub, org/name or org/name@tag; made if it is not there.")],
    dense: Annotated[
        bool, typer.Option("--dense", help="Add the files that open_clip loads as hf-hub:ORG/NAME.")
    ] = False,
    mask_only: Annotated[bool, typer.Option("--mask-only", help="Masks and reports alone, no weights.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Only you, or your organization, may see the repo.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Tag to give; default the next of v1, v2, ...")
    ] = None,
    license: Annotated[
        str, typer.Option("--license", help="License of the weights: apache-2.0, mit, other, ...")
    ] = "other",
    base: o.BaseOpt = None,
    message: Annotated[str | None, typer.Option("--message", help="What the commit says.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and sizes; no call to the Hub.")] = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Publish a bundle on the Hugging Face Hub: one commit, a model card, and a tag to pin it by."""
    from opentrans_cli.steps.hub.push import push as step

    result = step(
        bundle,
        repo,
        dense=dense,
        mask_only=mask_only,
        private=private,
        license=license,
        tag=revision,
        message=message,
        base=base,
        dry_run=dry_run,
        reporter=ConsoleReporter(quiet=quiet),
    )
    address = None if dry_run else result.address
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=address, quiet=quiet)


def _show(console: Console, result: PushResult) -> None:
    from rich.markup import escape

    if result.dry_run:
        table = plain_table(f"{result.address}, nothing sent", "file", ">size")
        for name, size in result.files.items():
            table.add_row(name, human_bytes(size))
        table.add_row("all", human_bytes(sum(result.files.values())))
        console.print(table)
        return
    sent = f"{human_bytes(result.uploaded_bytes)} in one commit" if result.committed else "nothing new to send"
    deleted = f", {len(result.deleted)} files of an older bundle deleted" if result.deleted else ""
    console.print(f"[bold]{result.address}[/]  {sent}{deleted}; {escape(result.url)}", soft_wrap=True)
