"""opentrans pull."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.hub.pull import PullResult


@dataclass(frozen=True)
class PullRequest(Options):
    """What is downloaded, and where it goes."""

    repo: str = option(help="repo on the Hub: org/name or org/name@REVISION (tag, branch or commit)", argument=True)
    out: Path | None = option(None, also=("-o",), help="new bundle", unset="in the cache, whose path is printed")
    base: str | None = option(
        None, help="source of your own base weights, to complete a bundle of masks alone", completes="source"
    )


@command
def pull_command(asked: PullRequest, write: Force, talk: Talk) -> None:
    """Bring a bundle from the Hugging Face Hub, every byte checked before it appears; a killed pull goes on.

    opentrans pull org/name
    opentrans pull org/name@v1 --out subnet
    """
    from opentrans_cli.steps.hub.pull import pull

    result = pull(asked.repo, out=asked.out, base=asked.base, **vars(write), reporter=talk.reporter)
    talk.emit(result.to_json(), lambda console: _show(console, result), result.path)


def _show(console: Console, result: PullResult) -> None:
    from rich.markup import escape

    whence = f"{human_bytes(result.fetched_bytes)} fetched" if result.fetched_bytes else "nothing to fetch"
    console.print(
        f"[bold]{escape(str(result.path))}[/]  {result.repo} at {result.commit[:12]}, sparsity {result.sparsity:.4f}, "
        f"{human_bytes(result.bytes)}, {whence}, checked",
        soft_wrap=True,
    )
