"""opentrans verify."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from opentrans_cli.cli.command import Talk, command
from opentrans_cli.option import Options, option
from opentrans_cli.steps.shared_options import BundleChoice

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.look.verify import VerifyResult


_SIGNED = "Signature (needs the extra sign)"


@dataclass(frozen=True)
class VerifyRequest(Options):
    """What the bundle is compared with."""

    parents: tuple[str, ...] = option(
        (),
        flag="--parent",
        help="a bundle of its history, to prove digest and frozen layers (repeatable)",
        kind="bundle",
    )
    key: Path | None = option(None, help="public key in PEM that must have signed it", panel=_SIGNED)
    identity: str | None = option(
        None, help="who must have signed it by Sigstore, an address or a workflow", panel=_SIGNED
    )
    issuer: str | None = option(None, help="who vouched for that identity, an address", panel=_SIGNED)
    trust_root: Path | None = option(
        None, help="trust configuration of Sigstore", unset="asked for over the network", panel=_SIGNED
    )


@command
def verify_command(source: BundleChoice, asked: VerifyRequest, talk: Talk) -> None:
    """Check a bundle completely: hashes, masks, counts, values, history. Exit code 1 if anything is wrong.

    opentrans verify subnet
    opentrans verify trained --parent subnet
    opentrans verify hf://org/name@v1 --key publisher.pub
    """
    from opentrans_cli.steps.look.verify import verify

    result = verify(source.bundle, **vars(asked), reporter=talk.reporter)
    talk.emit(asdict(result), lambda console: _show(console, result))
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
