"""opentrans verify."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.look.verify import VerifyResult


ParentOpt = Annotated[
    list[str] | None,
    typer.Option("--parent", help="A bundle of its history, to prove digest and frozen layers; repeatable."),
]


def verify(bundle: o.BundleArg, parent: ParentOpt = None, as_json: o.JsonOpt = False) -> None:
    """Check a bundle completely: hashes, masks, counts, values, history. Exit code 1 if anything is wrong."""
    from opentrans_cli.steps.look.verify import verify as step

    result = step(bundle, parents=parent or (), reporter=ConsoleReporter(quiet=as_json))
    emit(asdict(result), lambda console: _show(console, result), as_json=as_json)
    if not result.ok:
        failed = next(check for check in result.checks if not check.ok)
        typer.echo(
            f"opentrans: error: bundle is not valid: {result.path} ({failed.name}): {failed.detail}",
            err=True,
        )
        raise typer.Exit(1)


def _show(console: Console, result: VerifyResult) -> None:
    from rich.markup import escape

    for check in result.checks:
        mark = "[green]ok[/]    " if check.ok else "[red]failed[/]"
        console.print(f"{mark} {check.name}: {escape(check.detail)}", soft_wrap=True)
