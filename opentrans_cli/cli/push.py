"""opentrans push."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.bundle.card.licenses import HUB_LICENSES, OTHER
from opentrans_cli.cli.command import Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.option import Options, option
from opentrans_cli.steps.shared_options import BaseChoice, BundleChoice

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.hub.push import PushResult


@dataclass(frozen=True)
class PushRequest(Options):
    """Where it goes, and how."""

    ref: str = option(
        metavar="REPO", help="repo on the Hub, org/name or org/name@tag; made if it is not there", argument=True
    )
    dense: bool = option(False, help="add the files that open_clip loads as hf-hub:ORG/NAME")
    mask_only: bool = option(False, help="publish masks and reports alone, no weights")
    patch: bool = option(False, help="add what differs from the base, as indices and values")
    private: bool = option(False, help="make a new repo private: only you, or your organization, may see it")
    tag: str | None = option(None, flag="--revision", help="tag for this publication", unset="the next of v1, v2, ...")
    license: str = option(
        "other",
        help="license of the weights as the Hub or SPDX names it, such as apache-2.0 or mit; needed",
        known=(*sorted(HUB_LICENSES), OTHER),
    )
    license_name: str | None = option(None, help="name of a license that neither of them knows")
    license_link: str | None = option(None, help="address of the text of that license, https")
    benchmark: dict[str, str] | None = option(
        None,
        metavar="DATASET=ORG/NAME:TASK",
        help="the benchmark of the Hub on which the report eval-DATASET was measured, for its leaderboard (repeatable)",
        kind="pairs",
    )
    message: str | None = option(None, help="message of the commit", unset="the last step of the bundle")
    sign: bool = option(False, help="sign it by Sigstore with your identity (needs the extra sign)")
    sign_key: Path | None = option(
        None, help="sign it with the elliptic curve key in this file, PEM (needs the extra sign)"
    )
    dry_run: bool = option(False, help="list files, sizes and the points of the gate; no call to the Hub")
    no_gate: str | None = option(
        None, metavar="REASON", help="reason to publish although the gate says no; it stands on the card"
    )


@command
def push_command(source: BundleChoice, asked: PushRequest, base: BaseChoice, talk: Talk) -> None:
    """Publish a bundle on the Hugging Face Hub: one commit, a model card, and a tag to pin it by.

    opentrans push subnet org/name --license apache-2.0 --dry-run
    opentrans push subnet org/name@v1 --license mit --dense --patch
    """
    from opentrans_cli.steps.hub.push import push

    result = push(source.bundle, **vars(asked), **vars(base), reporter=talk.reporter)
    address = None if asked.dry_run else result.address
    talk.emit(result.to_json(), lambda console: _show(console, result), address)
    result.check_passed()


def _show(console: Console, result: PushResult) -> None:
    from rich.markup import escape

    if result.dry_run:
        table = plain_table(f"{result.address}, nothing sent", "file", ">size")
        for name, size in result.files.items():
            table.add_row(name, human_bytes(size))
        table.add_row("all", human_bytes(sum(result.files.values())))
        console.print(table)
        for point in result.gate:
            mark = "[green]ok[/]    " if point.ok else "[red]failed[/]"
            console.print(f"{mark} {point.name}: {escape(point.detail)}", soft_wrap=True)
        return
    sent = f"{human_bytes(result.uploaded_bytes)} in one commit" if result.committed else "nothing new to send"
    deleted = f", {len(result.deleted)} files of an older bundle deleted" if result.deleted else ""
    console.print(f"[bold]{result.address}[/]  {sent}{deleted}; {escape(result.url)}", soft_wrap=True)
