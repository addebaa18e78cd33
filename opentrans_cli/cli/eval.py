"""opentrans eval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from opentrans_cli.cli import options as o
from opentrans_cli.cli.output import ConsoleReporter, emit, human_bytes, human_count, percent, plain_table
from opentrans_cli.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

CurveOpt = Annotated[
    bool, Option("--curve", help="Score every sparsity the bundle's run passed through; report and chart.")
]
SourceArg = Annotated[
    str | None, Argument(help="A source (see `opentrans prune --help`), unless --checkpoint is given.")
]
VocabularyOpt = Annotated[
    Path | None,
    Option("--vocabulary", help="Other words for the classes, in their order: class file or vocabulary pack."),
]
ReportOpt = Annotated[Path | None, Option("--out", "-o", help="Write the report here, not into the bundle.")]


def evaluate(
    source: SourceArg = None,
    dataset: o.DatasetOpt = None,
    images: o.ImagesOpt = None,
    labels: o.LabelsOpt = None,
    classes: o.ClassesOpt = None,
    ignore: o.IgnoreOpt = None,
    split_list: o.SplitListOpt = None,
    limit: o.LimitOpt = None,
    hold_out: o.HoldOutOpt = None,
    at_sparsity: o.AtSparsityOpt = None,
    curve: CurveOpt = False,
    framework: o.FrameworkOpt = None,
    checkpoint: o.CheckpointOpt = None,
    vocabulary: VocabularyOpt = None,
    seen: o.SeenOpt = None,
    no_resize: o.NoResizeOpt = False,
    base: o.BaseOpt = None,
    out: ReportOpt = None,
    device: o.DeviceOpt = "auto",
    force: o.ForceOpt = False,
    as_json: o.JsonOpt = False,
    quiet: o.QuietOpt = False,
) -> None:
    """Score a segmentor: mIoU over all, seen and unseen classes, parameters, MACs, measured time."""
    if (source is None) == (checkpoint is None):
        raise OptionError("eval scores one segmentor: a source, or --checkpoint FILE; give exactly one of the two")
    name, data = o.dataset_choice("val", locals())
    common = {**vars(data), "dataset": name, "base": base, "out": out, "device": device, "force": force}
    say = ConsoleReporter(quiet=quiet)
    path: Path | None
    if curve:
        if at_sparsity is not None:
            raise OptionError("one sparsity or all of them: --at-sparsity and --curve; give one of the two")
        if source is None or framework or vocabulary or seen or no_resize:
            raise OptionError("a curve is of a bundle as it is: --curve; leave --framework and --vocabulary out")
        from opentrans_cli.steps.eval.curve import curve as draw

        drawn = draw(source, **common, reporter=say)
        report, path, show = drawn.report, drawn.path, _show_curve
    else:
        from opentrans_cli.steps.eval.evaluate import evaluate as step

        result = step(
            source,
            **common,
            framework=framework,
            checkpoint=checkpoint,
            words=vocabulary,
            seen=seen,
            own_size=no_resize,
            at_sparsity=at_sparsity,
            reporter=say,
        )
        report, path, show = result.report, result.path, _show
    title = source or str(checkpoint)
    emit(report, lambda console: show(console, title, report), as_json=as_json, path=path, quiet=quiet)


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
