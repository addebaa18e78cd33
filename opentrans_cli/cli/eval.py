"""opentrans eval."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.cli.command import Force, Resume, Talk, command
from opentrans_cli.cli.output import plain_table
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError
from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.option import Options, option
from opentrans_cli.steps.eval.options import EvalOptions
from opentrans_cli.steps.shared_options import BaseChoice, CheckpointChoice, DataChoice, Machine, RoundChoice

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class EvalRequest(Options):
    """What is scored, and where the report goes."""

    source: str | None = option(
        None,
        help="a source (see `opentrans prune --help`), unless --checkpoint is given",
        kind="source",
        argument=True,
        completes="source",
    )
    vocabulary: Path | None = option(
        None, help="other words for the classes, in their order: class file or vocabulary pack", kind="path"
    )
    out: Path | None = option(None, also=("-o",), help="file for the report", unset="into the bundle")


@command
def eval_command(
    asked: EvalRequest,
    options: EvalOptions,
    round: RoundChoice,
    choice: DataChoice,
    data: DatasetOptions,
    published: CheckpointChoice,
    base: BaseChoice,
    machine: Machine,
    resume: Resume,
    write: Force,
    talk: Talk,
) -> None:
    """Score a segmentor: mIoU over all, seen and unseen classes, parameters, MACs, measured time.

    opentrans eval trained
    opentrans eval trained --images photos --labels maps --classes names.txt
    opentrans eval --framework fcclip --checkpoint fcclip.pth --dataset shapes
    """
    if (asked.source is None) == (published.checkpoint is None):
        raise OptionError("eval scores one segmentor: a source, or --checkpoint FILE; give exactly one of the two")
    common: dict[str, Any] = {
        **vars(choice),
        **vars(data),
        "split": "val",
        **vars(base),
        **vars(machine),
        **vars(resume),
        **vars(write),
    }
    common |= {"out": asked.out, "reporter": talk.reporter}
    result: Any
    if options.curve:
        if round.at_sparsity is not None:
            raise OptionError("one sparsity or all of them: --at-sparsity and --curve; give one of the two")
        if asked.source is None or published != CheckpointChoice() or asked.vocabulary is not None:
            raise OptionError("a curve is of a bundle as it is: --curve; leave --framework and --vocabulary out")
        from opentrans_cli.steps.eval.curve import curve

        result, show = curve(asked.source, **common), _show_curve
    else:
        from opentrans_cli.steps.eval.evaluate import evaluate

        result = evaluate(asked.source, **common, **vars(published), **vars(round), words=asked.vocabulary)
        show = _show
    title = asked.source or str(published.checkpoint)
    talk.emit(result.report, lambda console: show(console, title, result.report), result.path)


def _show(console: Console, source: str, report: dict[str, Any]) -> None:
    height, width = report["resolution"]
    at = f" at sparsity {report['at_sparsity']:g}" if "at_sparsity" in report else ""
    table = plain_table(f"{source}{at} on {report['dataset']}: {report['images']} images", "", "", header=False)
    table.add_row("framework", report["framework"])
    if "checkpoint" in report:
        table.add_row("checkpoint, SHA-256", f"{report['checkpoint']['file']}, {report['checkpoint']['sha256'][:12]}")
    table.add_row("mIoU, all classes", percent(report["miou"]))
    table.add_row("mIoU, seen / unseen", f"{percent(report['miou_seen'])} / {percent(report['miou_unseen'])}")
    table.add_row("pixel accuracy", percent(report["pixel_accuracy"]))
    parameters = f"{human_count(report['params_kept'])} / {human_count(report['params_dense'])}"
    table.add_row("parameters, kept / all", parameters)
    macs = f"{human_count(report['macs_kept'])} / {human_count(report['macs'])}"
    table.add_row(f"MACs at {width} x {height}, kept / all", macs)
    table.add_row("measured, dense kernels", f"{1000 * report['seconds_per_image']:.1f} ms an image")
    console.print(table)


def _show_curve(console: Console, source: str, report: dict[str, Any]) -> None:
    title = f"{source} on {report['dataset']}: {report['images']} images, {report['framework']}"
    table = plain_table(title, ">round", ">sparsity", ">kept", ">size", ">mIoU", ">seen", ">unseen")
    for point in report["points"]:
        table.add_row(
            str(point["round"]),
            f"{point['sparsity']:.4f}",
            human_count(point["kept"]),
            human_bytes(point["bytes"]),
            *(percent(point[name]) for name in ("miou", "miou_seen", "miou_unseen")),
        )
    console.print(table)
