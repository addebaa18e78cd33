"""opentrans transfer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count, plain_table
from opentrans_cli.cli.transfer_onnx import FrameworkOpt, ResolutionOpt, VocabularyOpt, WordsOpt, show_onnx
from opentrans_cli.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.transfer.checkpoint import CheckpointTransfer
    from opentrans_cli.steps.transfer.framework import FrameworkTransfer


def transfer(
    bundle: o.BundleArg,
    to: Annotated[
        str | None,
        typer.Option("--to", help="Framework (default: deeplabv3), open-clip, onnx; with --checkpoint a key table."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New bundle, folder or checkpoint; needed unless --dry-run.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Put the subnet into this file's tower: .safetensors or .pth.")
    ] = None,
    what: Annotated[
        str | None,
        typer.Option("--what", help="mask (default): zero its own pruned weights; weights: take the bundle's."),
    ] = None,
    under: Annotated[
        str | None, typer.Option("--under", help="Prefix of the tower's keys, where the checkpoint has several.")
    ] = None,
    allow_missing: Annotated[
        list[str] | None, typer.Option("--allow-missing", help="Layers the checkpoint may lack, by name or glob.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every key and write nothing.")] = False,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the framework, e.g. output_stride=8.")
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="open-clip: a smaller dense tower, without the channels pruned away.")
    ] = False,
    words: WordsOpt = None,
    vocabulary: VocabularyOpt = None,
    framework: FrameworkOpt = None,
    resolution: ResolutionOpt = None,
    at_sparsity: o.AtSparsityOpt = None,
    base: o.BaseOpt = None,
    seed: o.SeedOpt = 0,
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Put the subnet into a framework, a checkpoint, or a folder open_clip loads, with a receipt of every key."""
    if (out is None) != dry_run:
        raise OptionError("transfer needs either a place to write or none: --out and --dry-run; give exactly one")
    if to == "onnx" and (words is None) == (vocabulary is None):
        raise OptionError('--to onnx needs words: --words "cat, dog, sky" or --vocabulary FILE; give exactly one')
    from opentrans_cli.steps.transfer.transfer import transfer as step

    given: dict[str, Any] = {"what": what, "under": under, "allow_missing": allow_missing or None}
    given |= {"compact": compact or None, "framework": framework, "resolution": resolution}
    given |= {"words": vocabulary if words is None else o.names(words), **framework_options(option or [])}
    result: Any = step(
        bundle,
        to=to,
        checkpoint=checkpoint,
        out=out,
        at_sparsity=at_sparsity,
        base=base,
        seed=seed,
        force=force,
        reporter=ConsoleReporter(quiet=quiet),
        **{name: value for name, value in given.items() if value is not None},
    )
    show: Any = _show
    if checkpoint is not None:
        show = _checkpoint_summary if result.path else _checkpoint_table
    elif to == "onnx":
        show = show_onnx
    emit(result.to_json(), lambda console: show(console, result), as_json=as_json, path=result.path, quiet=quiet)
    if checkpoint is not None:
        result.check_matched()


def framework_options(pairs: list[str]) -> dict[str, str]:
    """["a=1"] -> {"a": "1"}; raises OptionError for a pair without "="."""
    for pair in pairs:
        if "=" not in pair:
            raise OptionError(f"not NAME=VALUE: --option {pair}; write for example output_stride=8")
    return dict((name.strip(), value.strip()) for name, _, value in (pair.partition("=") for pair in pairs))


def _show(console: Console, result: FrameworkTransfer) -> None:
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


def _summary(console: Console, result: FrameworkTransfer) -> None:
    from rich.markup import escape

    counts = Counter((key["rule"], key["verdict"]) for key in result.keys)
    parts = ", ".join(f"{count} {rule} {verdict}" for (rule, verdict), count in sorted(counts.items()))
    console.print(f"[bold]{escape(str(result.path))}[/]  {result.framework}: {parts}; none unmatched", soft_wrap=True)
    if compact := result.to_json().get("compact"):
        parameters = f"{human_count(compact['parameters'])} of {human_count(compact['dense_parameters'])} parameters"
        console.print(f"width {compact['width']}, {parameters}, embeddings within {compact['difference']:.0e}")


def _checkpoint_table(console: Console, result: CheckpointTransfer) -> None:
    from rich.markup import escape

    unmatched = f"{len(result.unmatched)} layers unmatched" if result.unmatched else "none unmatched"
    title = f"{result.framework} under '{result.prefix}': {len(result.keys)} tensors of the tower, {unmatched}"
    table = plain_table(escape(title), "source", "target", "rule", "shape", "there", ">kept", "verdict")
    for key in result.keys:
        kept = "" if key["kept"] is None else human_count(key["kept"])
        there = "" if key["target_shape"] is None else _sides(key["target_shape"])
        cells = [key["source"], key["target"] or "(none)", key["rule"], _sides(key["shape"]), there, kept]
        table.add_row(*map(escape, cells), key["verdict"])
    console.print(table)


def _sides(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _checkpoint_summary(console: Console, result: CheckpointTransfer) -> None:
    from rich.markup import escape

    assert result.output is not None and result.parity is not None
    counts = Counter(key["verdict"] for key in result.keys)
    parts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    place = f"{result.framework} under '{result.prefix}'"
    console.print(f"[bold]{escape(str(result.path))}[/]  {escape(place)}: {parts}", soft_wrap=True)
    console.print(f"read again: {result.output['changed']} tensors changed, {result.output['unchanged']} bit for bit")
    parity = result.parity
    if parity["reason"] is None:
        differ = f"{parity['difference']:.1e} of {parity['largest']:.3g}"
        console.print(f"parity: the trunk's features differ by at most {differ} on a fixed image")
    else:
        console.print(f"parity: not measured, {parity['reason']}", soft_wrap=True, markup=False)
