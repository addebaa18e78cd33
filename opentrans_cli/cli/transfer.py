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
    to: Annotated[str, typer.Option("--to", help="deeplabv3, maskclip, or open-clip (a folder).")] = "deeplabv3",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New bundle or folder; needed unless --dry-run.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every key and write nothing.")] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the framework, e.g. output_stride=8.")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="open-clip: a smaller dense tower, without the channels pruned away.")
    ] = False,
    at_sparsity: o.AtSparsityOpt = None,
    base: o.BaseOpt = None,
    seed: o.SeedOpt = 0,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Put the subnet into a segmentation framework, or a folder open_clip loads, with a receipt of every key."""
    if (out is None) != dry_run:
        raise OptionError("transfer needs either a place to write or none: --out and --dry-run; give exactly one")
    from opentrans_cli.steps.export import OPEN_CLIP, export_open_clip

    reporter = ConsoleReporter(quiet=quiet)
    result: TransferResult
    if to == OPEN_CLIP:
        if option:
            raise OptionError(f"{OPEN_CLIP} has no options: --option {option[0]}; leave it out")
        result = export_open_clip(
            bundle, out=out, compact=compact, at_sparsity=at_sparsity, base=base, force=force, reporter=reporter
        )
    else:
        if compact:
            raise OptionError(f"only --to {OPEN_CLIP} takes --compact: --to {to}; leave one of them out")
        from opentrans_cli.steps.transfer import transfer as step

        result = step(
            bundle,
            to=to,
            out=out,
            options=framework_options(option or []),
            at_sparsity=at_sparsity,
            base=base,
            seed=seed,
            force=force,
            reporter=reporter,
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
    from rich.markup import escape

    title = f"{result.framework}: {len(result.keys)} keys, none unmatched"
    table = plain_table(title, "source", "target", "rule", ">kept")
    for key in result.keys:
        kept = "" if key["kept"] is None else human_count(key["kept"])
        table.add_row(escape(key["source"]), escape(key["target"] or "(left out)"), key["rule"], kept)
    console.print(table)


def _summary(console: Console, result: TransferResult) -> None:
    from rich.markup import escape

    counts = Counter((key["rule"], key["verdict"]) for key in result.keys)
    parts = ", ".join(f"{count} {rule} {verdict}" for (rule, verdict), count in sorted(counts.items()))
    console.print(f"[bold]{escape(str(result.path))}[/]  {result.framework}: {parts}; none unmatched", soft_wrap=True)
    if compact := result.to_json().get("compact"):
        parameters = f"{human_count(compact['parameters'])} of {human_count(compact['dense_parameters'])} parameters"
        console.print(f"width {compact['width']}, {parameters}, embeddings within {compact['difference']:.0e}")
