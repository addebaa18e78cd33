"""opentrans transfer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count, plain_table
from opentrans_cli.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.transfer import TransferResult


def transfer(
    bundle: o.BundleArg,
    to: Annotated[str, typer.Option("--to", help="Framework: deeplabv3 or maskclip.")] = "deeplabv3",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New bundle; needed unless --dry-run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every key and write nothing.")] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the framework, e.g. output_stride=8.")
    ] = None,
    seed: o.SeedOpt = 0,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Put the subnet into a segmentation framework, with a receipt of every key."""
    if (out is None) != dry_run:
        raise OptionError("transfer needs either a place to write or none: --out and --dry-run; give exactly one")
    from opentrans_cli.steps.transfer import transfer as step

    result = step(
        bundle,
        to=to,
        out=out,
        options=framework_options(option or []),
        seed=seed,
        force=force,
        reporter=ConsoleReporter(quiet=quiet),
    )
    emit(result.to_json(), lambda console: _show(console, result), as_json=as_json, path=result.path, quiet=quiet)


def framework_options(pairs: list[str]) -> dict[str, str]:
    """["a=1"] -> {"a": "1"}; raises OptionError for a pair without "="."""
    for pair in pairs:
        if "=" not in pair:
            raise OptionError(f"not NAME=VALUE: --option {pair}; write for example output_stride=8")
    return dict((name.strip(), value.strip()) for name, _, value in (pair.partition("=") for pair in pairs))


def _show(console: Console, result: TransferResult) -> None:
    if result.path is not None:
        _summary(console, result)
        return
    title = f"{result.framework}: {len(result.keys)} keys, none unmatched"
    table = plain_table(title, "source", "target", "rule", ">kept")
    for key in result.keys:
        kept = "" if key["kept"] is None else human_count(key["kept"])
        table.add_row(key["source"], key["target"] or "(left out)", key["rule"], kept)
    console.print(table)


def _summary(console: Console, result: TransferResult) -> None:
    counts = Counter((key["rule"], key["verdict"]) for key in result.keys)
    parts = ", ".join(f"{count} {rule} {verdict}" for (rule, verdict), count in sorted(counts.items()))
    console.print(f"[bold]{result.path}[/]  {result.framework}: {parts}; none unmatched", soft_wrap=True)
