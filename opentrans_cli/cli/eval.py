"""opentrans eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_count, percent, plain_table

if TYPE_CHECKING:
    from rich.console import Console

ReportOpt = Annotated[Path | None, Option("--out", "-o", help="Write the report here, not into the bundle.")]


def evaluate(
    source: o.SourceArg,
    dataset: o.DatasetOpt = None,
    images: o.ImagesOpt = None,
    labels: o.LabelsOpt = None,
    classes: o.ClassesOpt = None,
    ignore: o.IgnoreOpt = None,
    split_list: o.SplitListOpt = None,
    limit: o.LimitOpt = None,
    hold_out: o.HoldOutOpt = None,
    base: o.BaseOpt = None,
    out: ReportOpt = None,
    device: o.DeviceOpt = "auto",
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Score a segmentor: mIoU over all, seen and unseen classes, parameters, MACs, measured time."""
    name, data = o.dataset_choice("val", locals())
    from opentrans_cli.steps.evaluate import evaluate as step

    say = ConsoleReporter(quiet=quiet)
    result = step(source, dataset=name, data=data, base=base, out=out, device=device, force=force, reporter=say)
    report = result.report
    emit(report, lambda console: _show(console, source, report), as_json=as_json, path=result.path, quiet=quiet)


def _show(console: Console, source: str, report: dict[str, Any]) -> None:
    height, width = report["resolution"]
    table = plain_table(f"{source} on {report['dataset']}: {report['images']} images", "", "", header=False)
    table.add_row("framework", report["framework"])
    table.add_row("mIoU, all classes", percent(report["miou"]))
    table.add_row("mIoU, seen / unseen", f"{percent(report['miou_seen'])} / {percent(report['miou_unseen'])}")
    table.add_row("pixel accuracy", percent(report["pixel_accuracy"]))
    parameters = f"{human_count(report['params_kept'])} / {human_count(report['params_dense'])}"
    table.add_row("parameters, kept / all", parameters)
    macs = f"{human_count(report['macs_kept'])} / {human_count(report['macs'])}"
    table.add_row(f"MACs at {width} x {height}, kept / all", macs)
    table.add_row("measured, dense kernels", f"{1000 * report['seconds_per_image']:.1f} ms an image")
    console.print(table)
