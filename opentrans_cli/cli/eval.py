"""opentrans eval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.cli.command import Force, Resume, Talk, command
from opentrans_cli.cli.eval_compare import show_comparison
from opentrans_cli.cli.output import plain_table
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError
from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.option import Options, option, stated
from opentrans_cli.steps.eval.options import (
    CompareOptions,
    EvalOptions,
    PredictionChoice,
    PredictionOptions,
    ScoreOptions,
    TaskOptions,
)
from opentrans_cli.steps.shared_options import (
    BaseChoice,
    CheckpointChoice,
    DataChoice,
    Machine,
    Reading,
    RoundChoice,
    WindowChoice,
)

if TYPE_CHECKING:
    from rich.console import Console


SHOWN = 32
"""Of so many classes each is shown in the table of a command."""


@dataclass(frozen=True)
class EvalRequest(Options):
    """What is scored, and where the report goes."""

    source: tuple[str, ...] = option(
        (),
        help="a source (see `opentrans prune --help`), unless --checkpoint is given; with --compare bundles, run "
        "folders, reports",
        kind="source",
        argument=True,
        completes="source",
    )
    vocabulary: Path | None = option(
        None,
        help="other words for the classes, in their order: class file, vocabulary pack, or published data set",
        kind="path",
    )
    out: Path | None = option(
        None,
        also=("-o",),
        help="file for the report; with --compare .md, .csv, .tex or .json",
        unset="into the bundle",
    )


@command
def eval_command(
    asked: EvalRequest,
    comparison: CompareOptions,
    options: EvalOptions,
    scores: ScoreOptions,
    task: TaskOptions,
    predicted: PredictionChoice,
    other: PredictionOptions,
    round: RoundChoice,
    choice: DataChoice,
    data: DatasetOptions,
    published: CheckpointChoice,
    windows: WindowChoice,
    base: BaseChoice,
    reading: Reading,
    machine: Machine,
    resume: Resume,
    write: Force,
    talk: Talk,
) -> None:
    """Score a segmentor: mIoU over all, seen and unseen classes, parameters, MACs, measured time.

    opentrans eval trained --images photos --labels maps --classes names.txt
    opentrans eval --predictions theirs --labels maps --classes names.txt --json
    opentrans eval --compare dense trained reports --published --out table.md
    """
    if comparison.compare:
        kept = replace(asked, source=(), out=None)
        given = (
            options,
            scores,
            task,
            predicted,
            other,
            round,
            choice,
            data,
            published,
            windows,
            base,
            reading,
            machine,
            resume,
        )
        _refuse("a comparison reads reports and scores nothing", kept, *given)
        from opentrans_cli.steps.eval.compare import compare

        compared = compare(
            asked.source, out=asked.out, **vars(write), reporter=talk.reporter, published=comparison.published
        )
        talk.emit(compared.to_json(), lambda console: show_comparison(console, compared.table), compared.path)
        return
    if comparison.published:
        raise OptionError("published rows stand beside a comparison: --published; add --compare")
    if predicted.predictions is not None:
        of_segmentor = (replace(asked, out=None), options, round, published, windows, base, reading, machine, resume)
        _refuse("predictions are scored without a segmentor", *of_segmentor)
        _score_predictions(predicted.predictions, asked.out, task, scores, other, choice, data, write, talk)
        return
    _refuse("there are no predictions", other)
    if len(asked.source) > 1:
        raise OptionError(f"eval scores one segmentor: {len(asked.source)} sources; add --compare to compare reports")
    if bool(asked.source) == (published.checkpoint is not None):
        raise OptionError("eval scores one segmentor: a source, or --checkpoint FILE; give exactly one of the two")
    (source,) = asked.source or (None,)
    common: dict[str, Any] = {
        **vars(choice),
        **vars(data),
        **vars(scores),
        "split": "val",
        **vars(base),
        **vars(reading),
        **vars(machine),
        **vars(resume),
        **vars(write),
    }
    common |= {"out": asked.out, "reporter": talk.reporter}
    result: Any
    if options.curve:
        if round.at_sparsity is not None:
            raise OptionError("one sparsity or all of them: --at-sparsity and --curve; give one of the two")
        as_it_is = (published, windows) == (CheckpointChoice(), WindowChoice())
        if source is None or not as_it_is or asked.vocabulary is not None:
            raise OptionError(
                "a curve is of a bundle as it is: --curve; leave --framework, --window and --vocabulary out"
            )
        if task != TaskOptions():
            raise OptionError(f"a curve is of label maps: --curve; leave --task {task.task} out")
        from opentrans_cli.steps.eval.curve import curve

        result, show = curve(source, **common), _show_curve
    else:
        from opentrans_cli.steps.eval.evaluate import evaluate

        common |= {**vars(task), **vars(published), **vars(windows), **vars(round)}
        result = evaluate(source, **common, words=asked.vocabulary)
        show = _show
    title = source or str(published.checkpoint)
    talk.emit(result.report, lambda console: show(console, title, result.report), result.path)


def _score_predictions(
    predictions: Path,
    out: Path | None,
    task: TaskOptions,
    scores: ScoreOptions,
    other: PredictionOptions,
    choice: DataChoice,
    data: DatasetOptions,
    write: Force,
    talk: Talk,
) -> None:
    """Score label maps, or segments or objects in COCO's formats, that any tool has written."""
    if task.save_predictions is not None:
        raise OptionError(f"predictions are there already: --save-predictions {task.save_predictions}; leave it out")
    if task.task == "semantic":
        from opentrans_cli.steps.eval.predictions import score_predictions

        scored = score_predictions(
            predictions,
            out=out,
            reporter=talk.reporter,
            **vars(choice),
            **{**vars(data), "split": "val"},
            **vars(other),
            **vars(scores),
            **vars(write),
        )
        title = f"{predictions}: {scored.images} label maps"
        talk.emit(scored.report, lambda console: _show_scores(console, title, scored.report), scored.path)
        return
    _refuse(f"--task {task.task} takes files in COCO's formats", scores, other, choice, replace(data, labels=None))
    if data.labels is None:
        raise OptionError(f"the truth is missing: --predictions {predictions}; add --labels")
    from opentrans_cli.steps.eval.coco_files import score_coco_files

    document = score_coco_files(predictions, data.labels, task.task, out=out, force=write.force, reporter=talk.reporter)
    talk.emit(document, lambda console: _show_objects(console, document, _whole_percent), out)


def _refuse(why: str, *groups: Options) -> None:
    """Raises OptionError if any option of these is given, since it would have no effect."""
    for group in groups:
        for field, said in stated(group):
            if getattr(group, field.name) != field.default:
                what = field.name.upper() if said.argument else said.spelled(field.name)
                raise OptionError(f"{why}: {what}; leave it out")


def _show(console: Console, source: str, report: dict[str, Any]) -> None:
    height, width = report["resolution"]
    at = f" at sparsity {report['at_sparsity']:g}" if "at_sparsity" in report else ""
    table = plain_table(f"{source}{at} on {report['dataset']}: {report['images']} images", "", "", header=False)
    table.add_row("framework", report["framework"])
    if "checkpoint" in report:
        table.add_row("checkpoint, SHA-256", f"{report['checkpoint']['file']}, {report['checkpoint']['sha256'][:12]}")
    table.add_row("mIoU, all classes", percent(report["miou"]))
    table.add_row("mIoU, seen / unseen", f"{percent(report['miou_seen'])} / {percent(report['miou_unseen'])}")
    table.add_row("fwIoU", percent(report["fwiou"]))
    table.add_row("mACC / pACC", f"{percent(report['macc'])} / {percent(report['pixel_accuracy'])}")
    if "boundary" in report:
        near = report["boundary"]
        table.add_row("boundary mIoU, min with IoU", f"{percent(near['miou'])} / {percent(near['min_miou'])}")
    parameters = f"{human_count(report['params_kept'])} / {human_count(report['params_dense'])}"
    table.add_row("parameters, kept / all", parameters)
    macs = f"{human_count(report['macs_kept'])} / {human_count(report['macs'])}"
    parts = "in windows of" if report["protocol"]["windows"] else "at"
    table.add_row(f"MACs {parts} {width} x {height}, kept / all", macs)
    table.add_row("measured, dense kernels", f"{1000 * report['seconds_per_image']:.1f} ms an image")
    console.print(table)
    for objects in ("panoptic", "instance"):
        if objects in report:
            _show_objects(console, report[objects], percent)


def _show_scores(console: Console, title: str, report: dict[str, Any]) -> None:
    from rich.markup import escape

    means = {"mIoU": report["miou"], "fwIoU": report["fwiou"], "mACC": report["macc"], "pACC": report["pacc"]}
    if "boundary" in report:
        means |= {"boundary mIoU": report["boundary"]["miou"], "min with IoU": report["boundary"]["min_miou"]}
    classes = report["per_class"] if len(report["per_class"]) <= SHOWN else {}
    table = plain_table("", "", ">%")
    for name, value in [*means.items(), *((f"IoU of {name}", value) for name, value in classes.items())]:
        table.add_row(escape(name), "-" if value is None else f"{value:.1f}")
    console.print(title, markup=False)
    console.print(table)
    if not classes:
        console.print(f"{len(report['per_class'])} classes; --json lists the IoU of each", markup=False)


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


def _show_objects(console: Console, report: dict[str, Any], shown: Callable[[float | None], str]) -> None:
    """The figures of segments or objects, as `shown`."""
    if "pq" in report:
        table = plain_table("segments", "", ">PQ", ">SQ", ">RQ", ">classes")
        for name, row in (("all", report), ("things", report["things"]), ("stuff", report["stuff"])):
            table.add_row(name, *(shown(row[part]) for part in ("pq", "sq", "rq")), str(row["classes"]))
    else:
        from opentrans_cli.metrics.mask_ap import SUMMARY

        table = plain_table("masks of objects", *(f">{name}" for name in SUMMARY.values()))
        table.add_row(*(shown(report[name]) for name in SUMMARY))
    console.print(table)


def _whole_percent(value: float | None) -> str:
    """A figure that is in percent already: 12.34 -> "12.3"; None -> "-"."""
    return percent(None if value is None else value / 100)
