"""opentrans pull."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.hub.pull import PullResult

OutOpt = Annotated[
    Path | None, typer.Option("--out", "-o", help="Bundle to write (default: the cache, whose path is printed).")
]
BaseOpt = Annotated[
    str | None, typer.Option("--base", help="Source of your own base weights, to complete a bundle of masks alone.")
]


def pull(
    repo: Annotated[str, typer.Argument(help="org/name or org/name@REVISION: a tag, a branch or a commit.")],
    out: OutOpt = None,
    base: BaseOpt = None,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Bring a bundle from the Hugging Face Hub, every byte checked before it appears; a killed pull goes on."""
    from opentrans_cli.steps.hub.pull import pull as step

    result = step(repo, out=out, base=base, force=force, reporter=ConsoleReporter(quiet=quiet))
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, result: PullResult) -> None:
    from rich.markup import escape

    whence = f"{human_bytes(result.fetched_bytes)} fetched" if result.fetched_bytes else "nothing to fetch"
    console.print(
        f"[bold]{escape(str(result.path))}[/]  {result.repo} at {result.commit[:12]}, sparsity {result.sparsity:.4f}, "
        f"{human_bytes(result.bytes)}, {whence}, checked",
        soft_wrap=True,
    )
