"""opentrans transfer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.cli.command import Force, Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.errors import OptionError
from opentrans_cli.files.figures import human_count, percent
from opentrans_cli.option import Options, option, seed
from opentrans_cli.steps.shared_options import BUNDLE, BaseChoice, RoundChoice, WordChoice
from opentrans_cli.steps.transfer.options import TransferOptions

if TYPE_CHECKING:
    from rich.console import Console

    from opentrans_cli.steps.transfer.checkpoint import CheckpointTransfer
    from opentrans_cli.steps.transfer.framework import FrameworkTransfer
    from opentrans_cli.steps.transfer.onnx import OnnxExport


@dataclass(frozen=True)
class TransferRequest(Options):
    """What is transferred, and where it goes."""

    bundle: str = option(help=BUNDLE, kind="source", argument=True, completes="bundle")
    out: Path | None = option(None, also=("-o",), help="new bundle, folder or file; needed unless --dry-run")
    dry_run: bool = option(False, help="print every key and write nothing")
    seed: int = seed()


@command
def transfer_command(
    asked: TransferRequest,
    options: TransferOptions,
    choice: WordChoice,
    round: RoundChoice,
    base: BaseChoice,
    write: Force,
    talk: Talk,
) -> None:
    """Put the subnet into a framework, a checkpoint, or a folder open_clip loads, with a receipt of every key.

    opentrans transfer subnet --to fcclip --out fresh
    opentrans transfer subnet --checkpoint fcclip.pth --out fcclip-subnet.pth
    opentrans transfer subnet --to onnx --words "dog, sofa, floor" --out dog.onnx
    """
    if (asked.out is None) != asked.dry_run:
        raise OptionError("transfer needs either a place to write or none: --out and --dry-run; give exactly one")
    if options.to == "onnx":
        choice.chosen("--to onnx")
    from opentrans_cli.steps.transfer.transfer import transfer

    given = {name: value for name, value in vars(options).items() if value not in (None, (), False)}
    given |= given.pop("options", {})
    if (words := choice.vocabulary or choice.words) is not None:
        given["words"] = words
    given |= {**vars(round), **vars(base), **vars(write)}
    result: Any = transfer(asked.bundle, out=asked.out, seed=asked.seed, **given, reporter=talk.reporter)
    show: Any = _show
    if options.checkpoint is not None:
        show = _checkpoint_summary if result.path else _checkpoint_table
    elif options.to == "onnx":
        show = _show_onnx
    talk.emit(result.to_json(), lambda console: show(console, result), result.path)
    if options.checkpoint is not None:
        result.check_matched()


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


def _sides(shape: Sequence[int]) -> str:
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


def _show_onnx(console: Console, result: OnnxExport) -> None:
    from rich.markup import escape

    sizes = f"{_sides(result.resolution)} alone" if result.resolution else "any size from 32 x 32"
    what = f"{result.framework}: {len(result.classes)} classes, pictures of {sizes}, {result.bytes / 1e6:.1f} MB"
    console.print(f"[bold]{escape(str(result.path or '(not written)'))}[/]  {what}", soft_wrap=True)
    agreement = f"scores within {result.difference:.1e} of the largest, {percent(result.agreement)} % of pixels alike"
    compared = " and ".join(map(_sides, result.compared))
    console.print(f"onnxruntime and torch: {agreement}, at {compared}", soft_wrap=True)
