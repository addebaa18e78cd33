"""eval: mIoU over all, seen and unseen classes, parameters, MACs and measured time of one segmentor on one data set."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.hub.source import is_cached
from opentrans_cli.bundle.store import Bundle, add_file
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkPairs
from opentrans_cli.datasets.options import DatasetOptions, dataset_name
from opentrans_cli.errors import DataError, OpentransError, OptionError, RunStopped
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.reporter import LOGGED, SILENT, Reporter
from opentrans_cli.steps.by_name import by_name, takes
from opentrans_cli.steps.eval.objects import ObjectScoring, ObjectTask
from opentrans_cli.steps.eval.options import ScoreOptions, TaskOptions
from opentrans_cli.steps.eval.protocol import protocol_record
from opentrans_cli.steps.eval.seen import known_seen, seen_classes
from opentrans_cli.steps.eval.state import EvalState, eval_identity, eval_target
from opentrans_cli.steps.eval.word_order import check_word_order
from opentrans_cli.steps.flow import Flow
from opentrans_cli.steps.run_files import check_state, resumable
from opentrans_cli.steps.samples import open_samples, tell_empty, tell_skipped
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.figures import quality_figures
from opentrans_cli.steps.segmentors.opened import OpenedSegmentor, open_source
from opentrans_cli.steps.segmentors.picture_size import Sides
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.published import open_published
from opentrans_cli.steps.segmentors.scoring import Scoring, Skipped, ToScore, boundary_of, confusion_of
from opentrans_cli.steps.segmentors.tally import added
from opentrans_cli.steps.segmentors.windows import Windows
from opentrans_cli.steps.segmentors.words import DATA_SET, AnyWords, Words
from opentrans_cli.steps.shared_options import Reading, WindowChoice
from opentrans_cli.steps.sources import is_bundle
from opentrans_cli.steps.step_record import data_record, environment, parameter_count, step_record
from opentrans_cli.training.processes.distributed import World, open_world


@dataclass(frozen=True)
class EvalResult:
    """One evaluation."""

    path: Path | None  # the bundle the report was added to, or the file it was written to
    report: dict[str, Any]  # the eval report of `artifacts.schema.json`


@dataclass(frozen=True)
class Subject:
    """What is scored, besides a source: a framework's own checkpoint, and words that replace those of the data set.

    Raises OptionError for options that contradict each other.
    """

    framework: str | None = None
    checkpoint: Path | None = None
    words: Words | None = None  # as many classes as the data set has, in its order
    seen: Path | None = None  # class file with the classes that had training labels
    own_size: bool = False  # use pictures at their own size, whatever size a checkpoint was made for

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.framework is None:
            raise OptionError(f"whose checkpoint is it? --checkpoint {self.checkpoint}; add --framework")


@takes(DatasetOptions, Subject, ScoreOptions, TaskOptions, WindowChoice, Reading)
def evaluate(
    source: str | Path | None = None,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    dataset: str | None = None,
    words: AnyWords | None = None,
    at_sparsity: float | None = None,
    base: str | None = None,
    resume: bool = False,
    **given: Any,
) -> EvalResult:
    """Score the segmentor of a bundle on a data set; the report goes into the bundle, or to the file `out`.

    A source without a segmentor (a CLIP, or a bundle fresh from `prune`) is read out without training, by MaskCLIP's
    dense embeddings, and the report says so. Images are scored at their own size. No report is added to a bundle of
    the Hub, or if a bundle is scored in another form than its own.

    source: None with `checkpoint`, a file of the `framework`'s own. dataset: "shapes" (embedded) or "folder" (the
    default if `images` are given). words: other words for the classes, in their order. at_sparsity: an earlier round of
    a bundle; its report has the sparsity in its name. base: where the bundle's base is now. resume: go on with an
    interrupted evaluation; without it and without `force` a state is refused. Options: the fields of `DatasetOptions`,
    whose split is "val" here, of `Subject`, `ScoreOptions`, `TaskOptions`, `WindowChoice` and `Reading`. The processes
    of torchrun share the images, and the first writes the report.

    Raises SourceError, BundleError, HubError, DataError, TransferError, OutputError or OptionError; RunStopped after
    SIGTERM or when the disk is full, with the finished pictures kept.
    """
    data: DatasetOptions
    subject: Subject
    scores: ScoreOptions
    task: TaskOptions
    choice: WindowChoice
    reading: Reading
    chosen = {"split": "val", **given, "words": None if words is None else Words.of(words)}
    kinds = (DatasetOptions, Subject, ScoreOptions, TaskOptions, WindowChoice, Reading)
    data, subject, scores, task, choice, reading = by_name("evaluate", chosen, *kinds)
    choice.check_task(task.task)
    windows = Windows.of(choice)
    if (source is None) == (subject.checkpoint is None):
        raise OptionError("one segmentor is scored: a source, or --checkpoint FILE; give exactly one of the two")
    reporter, dataset = reporter or LOGGED, dataset_name(dataset, data)
    source = None if source is None else str(source)
    out = None if out is None else Path(out)
    into = _own_bundle(source, subject) if windows is None else None
    names = None if subject.words is None else subject.words.vocabulary.names
    looks = (subject.own_size, windows, task.task)
    asked = (source, subject.framework, subject.checkpoint, looks, names, at_sparsity, vars(data))
    target = eval_target(out, into, _report_name(dataset, at_sparsity), asked)
    with resumable(target) as finishing, open_world(device) as world:
        if out is not None:
            check_file_target(out, force=force)
        check_state(target, resume=resume, force=force)
        wanted = ObjectTask.of(task, force=force)
        samples = load_samples(dataset, data, reporter)
        words = _words(samples, subject)
        for remark in words.remarks:
            reporter.say(remark)
        if wanted is not None:
            wanted.check_samples(dataset, samples)
        opened = _opened(source, subject, at_sparsity, base, reporter)
        if wanted is not None:
            wanted.check_framework(opened.built)
        seen = known_seen(samples, words, opened, subject.seen)
        text = opened.embedded(words, seen.flags, reporter)
        if out is not None:
            prepare_parent(out)
        sides = None if subject.own_size else opened.sides
        written = out is not None or into is not None
        state = EvalState(target, written=written, resume=resume, reporter=reporter, world=world)
        objects = None if wanted is None else wanted.scoring(samples, opened.built, target, world, resume=resume)
        try:
            report = score(
                opened.built,
                samples,
                text,
                world=world,
                objects=objects,
                seen=seen.flags,
                sides=sides,
                windows=windows,
                scores=scores,
                skip_bad=data.skip_bad,
                workers=reading.workers,
                state=state,
                reporter=reporter,
            )
        except OpentransError as error:
            if objects is not None and not isinstance(error, RunStopped):
                objects.give_up(target)
            raise
        report = {**report, "dataset": dataset, "data": samples.fingerprint}
        report["protocol"] = protocol_record(
            report, samples, words, opened, data=data, seen=seen, sides=sides, windows=windows
        )
        if opened.checkpoint is not None:
            report["checkpoint"] = opened.checkpoint
        if at_sparsity is not None:
            report["at_sparsity"] = at_sparsity
        if world.is_main:
            with finishing():
                if out is not None:
                    write_file(out, [json_bytes(report)])
                elif into is not None:
                    bundle = opened.built.tower.bundle
                    assert bundle is not None
                    _record(bundle, report, {**data_record(data), **vars(scores), "task": task.task, "base": base})
                if objects is not None:
                    objects.finish(task.save_predictions)
                state.discard()
    return EvalResult(out or into, report)


def _own_bundle(source: str | None, subject: Subject) -> Path | None:
    """The bundle that gets the report: a local one that is scored in its own form."""
    if source is None or subject != Subject() or not is_bundle(source) or is_cached(Path(source)):
        return None
    return Path(source)


def _words(samples: SegDataset, subject: Subject) -> Words:
    """The words to ask for. Raises DataError unless they are a class for each of the data set's, in order."""
    words, wanted = subject.words or Words(samples.vocabulary, origin=DATA_SET), len(samples.vocabulary)
    if words.pack is None and isinstance(samples, BenchmarkPairs):
        words = replace(words, vocabulary=words.vocabulary.without(samples.benchmark.without))
    if len(words.vocabulary) != wanted:
        raise DataError(
            f"class list of the wrong length: {words.file or '--vocabulary'} has {len(words.vocabulary)} classes, the "
            f"data set has {wanted}; give one for each of its classes, in its order"
        )
    check_word_order(words.vocabulary, samples.vocabulary.names)
    return words


def _opened(
    source: str | None, subject: Subject, at_sparsity: float | None, base: str | None, reporter: Reporter
) -> OpenedSegmentor:
    if subject.checkpoint is not None:
        if at_sparsity is not None:
            raise OptionError(f"only a bundle has earlier rounds: {subject.checkpoint}; leave --at-sparsity out")
        assert subject.framework is not None
        return open_published(subject.framework, subject.checkpoint, base=base, reporter=reporter)
    assert source is not None
    return open_source(source, framework=subject.framework, at_sparsity=at_sparsity, base=base, reporter=reporter)


def load_samples(dataset: str, data: DatasetOptions, reporter: Reporter) -> SegDataset:
    """The labelled images to score. Raises DataError if there are none."""
    samples = open_samples(dataset, data, reporter)
    if len(samples) == 0:
        raise DataError(f"no images to score: {dataset}; check --images and --split-list")
    return samples


def score(
    built: BuiltSegmentor,
    samples: SegDataset,
    text: ClassText,
    *,
    world: World,
    objects: ObjectScoring | None = None,
    seen: Sequence[bool] | None = None,
    sides: Sides | None = None,
    windows: Windows | None = None,
    scores: ScoreOptions = ScoreOptions(),  # noqa: B008
    skip_bad: bool = False,
    workers: int = 0,
    state: EvalState | None = None,
    part: str = "",
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Accuracy, size, and counted and measured cost of one segmentor; the cost is for the size of the first image.

    world: its processes share the images; the report is the same in all, and but for times that of one process.
    objects: also scores single objects, for a framework of masks. seen: by class, whether it had training labels; None:
    as from `seen_classes`. sides: the picture size it works at. windows: those in which it looks at larger pictures.
    skip_bad: leave out pictures that cannot be scored. workers: threads that read ahead. state: keeps the finished
    pictures, of this `part` if there are several. Skipped pictures, and classes that no pixel of the label maps has,
    are reported.
    """
    with Flow[ToScore | Skipped](workers) as flow:
        predictor = Predictor(built, text, device=world.device, sides=sides, windows=windows)
        asked, total = {"skip_bad": skip_bad, "boundary": scores.boundary}, len(samples)
        scoring = Scoring(predictor, samples, flow, counted=True, beside=objects, **asked)
        what, task = (built, samples, text, world.device, sides), "semantic" if objects is None else objects.task
        identity = eval_identity(*what, windows=windows, boundary=scores.boundary, task=task) if state else ""
        keeping = state.keeping(scoring, part, identity, images=total) if state else nullcontext(lambda: None)
        with keeping as between:
            done = scoring.tally().rows
            kept = world.collect(done)[0]  # the first process has what an interrupted run kept
            mine = [row for row in range(total) if row not in kept][world.rank :: world.size]
            with (
                reporter.bar("scoring", len(done) + len(mine), done=len(done)) as advance,
                closing(scoring.over(mine)) as taken,
            ):
                for _ in taken:
                    advance("")
                    between()
        tally = added(world.collect(scoring.tally()))
    if state:
        state.put(part, tally)
    skipped, names = [text for _, text in sorted(tally.skipped.items())], samples.vocabulary.names
    if tally.first is None:
        raise DataError(f"no image is left: {total} are bad, first: {skipped[0]}; give others")
    confusion = confusion_of(tally, samples)
    tell_skipped(skipped, total, reporter)
    tell_empty(samples, confusion.labelled.tolist(), confusion.ignored, reporter)
    flags = seen_classes(samples, built.tower).flags if seen is None else seen
    seconds = [each for _, each in sorted(tally.seconds.items())]
    return {
        "framework": built.framework.name,
        "images": len(seconds),
        "classes": len(names),
        "skipped": skipped,
        **quality_figures(confusion, names, flags, absent=scores.absent, boundary=boundary_of(tally, samples)),
        **({} if objects is None else objects.report(tally, names)),
        **_cost(built, tally.first.macs),
        "seconds_per_image": statistics.median(seconds[world.size :] or seconds),  # the first of each process is slow
        "resolution": list(tally.first.resolution),
        "environment": environment(world.device),
    }


def _cost(built: BuiltSegmentor, macs: Mapping[str, int]) -> dict[str, Any]:
    dense, kept = parameter_count(built.module), built.kept_shares()
    removed = sum(int((~mask).sum()) for mask in built.tower.masks.values())
    return {
        "params_dense": dense,
        "params_kept": dense - removed,
        "macs": sum(macs.values()),
        "macs_kept": round(sum(count * kept.get(layer, 1.0) for layer, count in macs.items())),
    }


def _record(bundle: Bundle, report: dict[str, Any], given: dict[str, Any]) -> None:
    options, at_sparsity = {"dataset": report["dataset"], **given}, report.get("at_sparsity")
    if at_sparsity is not None:
        options["at_sparsity"] = at_sparsity
    step = step_record(
        "eval", options, seed=None, data=report["data"], metrics={"miou": report["miou"], "images": report["images"]}
    )
    name = _report_name(report["dataset"], at_sparsity)
    add_file(bundle, f"reports/{name}.json", json_bytes(report), step=step)


def _report_name(dataset: str, at_sparsity: float | None) -> str:
    return f"eval-{dataset}" if at_sparsity is None else f"eval-{dataset}-at-{at_sparsity:.4f}"
