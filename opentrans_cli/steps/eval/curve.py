"""eval --curve: accuracy and size at every sparsity that a bundle's run reached."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from opentrans_cli.bundle.hub.source import is_cached, local_source
from opentrans_cli.bundle.rounds import RoundInfo, available, subnet_bytes
from opentrans_cli.bundle.store import Bundle, add_files, open_bundle
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.options import DatasetOptions, dataset_name
from opentrans_cli.errors import OptionError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.pictures.curve import CurvePoint, curve_chart
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import by_name, takes
from opentrans_cli.steps.eval.evaluate import load_samples, score
from opentrans_cli.steps.eval.options import ScoreOptions
from opentrans_cli.steps.eval.state import EvalState, eval_target
from opentrans_cli.steps.run_files import check_state, resumable
from opentrans_cli.steps.segmentors.built import TRAINING_FREE, BuiltSegmentor, any_segmentor
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.shared_options import Reading
from opentrans_cli.steps.sources import base_of_rounds, clip_tower, is_bundle, load_text_clip, tower_at
from opentrans_cli.steps.step_record import data_record, environment, step_record
from opentrans_cli.training.processes.distributed import open_world


@dataclass(frozen=True)
class CurveResult:
    """One curve."""

    path: Path  # the bundle the report and its chart were added to, or the file the report was written to
    report: dict[str, Any]  # the curve report of `artifacts.schema.json`


@takes(DatasetOptions, ScoreOptions, Reading)
def curve(
    source: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    dataset: str | None = None,
    base: str | None = None,
    resume: bool = False,
    **given: Any,
) -> CurveResult:
    """Score every round of a bundle whose weights are available; report and chart go into the bundle.

    The arguments are those of `evaluate`. With `out` the report goes to that file and the chart beside it, as `.png`.
    Rounds that have only masks are left out, which is reported. The segmentor is the bundle's own, else the tower is
    read out without training. Raises OptionError for a source that is no bundle, else what `evaluate` raises.
    """
    data: DatasetOptions
    scores: ScoreOptions
    reading: Reading
    chosen = {"split": "val", **given}
    data, scores, reading = by_name("curve", chosen, DatasetOptions, ScoreOptions, Reading)
    reporter, dataset, out = reporter or LOGGED, dataset_name(dataset, data), None if out is None else Path(out)
    source = local_source(str(source), reporter)
    if not is_bundle(source):
        raise OptionError(f"only a bundle has rounds to draw: {source}; give the folder that `opentrans prune` wrote")
    if out is None and is_cached(Path(source)):
        raise OptionError(f"bundles of the Hub stay as they were published: {source}; add --out for report and chart")
    state_of = eval_target(out, Path(source), f"curve-{dataset}", None)
    with resumable(state_of) as finishing, open_world(device) as world:
        for target in () if out is None else (out, chart_path(out)):
            check_file_target(target, force=force)
        check_state(state_of, resume=resume, force=force)
        samples = load_samples(dataset, data, reporter)
        bundle = open_bundle(source)
        rounds = _rounds(bundle, reporter)
        clip = base_of_rounds(bundle, rounds, base, reporter)
        reader = load_text_clip(bundle.manifest.base, base, reporter, loaded=clip)
        text = embed_vocabulary(reader, samples.vocabulary, reporter=reporter)
        if out is not None:
            prepare_parent(out)
        state = EvalState(state_of, written=True, resume=resume, reporter=reporter, world=world)

        def scored(built: BuiltSegmentor, number: int) -> dict[str, Any]:
            part = f"of round {number}" if number else "of the dense base"
            return score(
                built,
                samples,
                text,
                world=world,
                scores=scores,
                skip_bad=data.skip_bad,
                workers=reading.workers,
                state=state,
                part=part,
                reporter=reporter,
            )

        reports = []
        for info in rounds:
            reporter.say(f"sparsity {info.sparsity:.4f}, round {info.round}")
            reports.append(scored(any_segmentor(tower_at(bundle, info, base=clip)), info.round))
        if bundle.manifest.segmentor is None and all(info.sparsity > 0 for info in rounds):
            # This comes last, because a framework removes parts of the tower it is built around, here the base's own.
            reporter.say("sparsity 0, the dense base")
            total = bundle.manifest.total
            rounds = (RoundInfo(0, 0.0, total, total, "base", False), *rounds)
            reports.insert(0, scored(any_segmentor(clip_tower(reader)), 0))
        report = _report(bundle, zip(rounds, reports, strict=True), dataset, samples, world.device)
        if world.is_main:
            with finishing():
                _write(bundle, report, out, {**data_record(data), **vars(scores), "base": base})
                state.discard()
    return CurveResult(out or bundle.path, report)


def _rounds(bundle: Bundle, reporter: Reporter) -> tuple[RoundInfo, ...]:
    rounds = available(bundle)
    masks_only = [f"{info.sparsity:.4f}" for info in rounds if not info.has_weights]
    if masks_only:
        reporter.say(f"left out, only their masks are there: {', '.join(masks_only)}")
    return tuple(info for info in rounds if info.has_weights)


def _report(
    bundle: Bundle,
    scored: Iterable[tuple[RoundInfo, dict[str, Any]]],
    dataset: str,
    samples: SegDataset,
    device: torch.device,
) -> dict[str, Any]:
    points = [
        {
            "round": info.round,
            "sparsity": info.sparsity,
            "kept": info.kept,
            "bytes": subnet_bytes(bundle, info),
            **{name: report[name] for name in ("miou", "miou_seen", "miou_unseen")},
        }
        for info, report in scored
    ]
    record = bundle.manifest.segmentor
    return {
        "framework": record.framework if record else TRAINING_FREE,
        "dataset": dataset,
        "data": samples.fingerprint,
        "images": len(samples),
        "points": points,
        "environment": environment(device),
    }


def _write(bundle: Bundle, report: dict[str, Any], out: Path | None, given: dict[str, Any]) -> None:
    picture = _picture(report)
    if out is not None:
        write_file(out, [json_bytes(report)])
        write_file(chart_path(out), [picture])
        return
    options = {"dataset": report["dataset"], **given, "curve": True}
    figures = {"miou": [point["miou"] for point in report["points"]], "images": report["images"]}
    step = step_record("eval", options, seed=None, data=report["data"], metrics=figures)
    name = f"reports/curve-{report['dataset']}"
    add_files(bundle, {f"{name}.json": json_bytes(report), f"{name}.png": picture}, step=step)


def chart_path(out: Path) -> Path:
    """Where the chart goes beside a report at `out`."""
    return out.with_suffix(".png")


def _picture(report: dict[str, Any]) -> bytes:
    points = [
        CurvePoint(point["sparsity"], point["miou"], point["miou_seen"], point["miou_unseen"], point["bytes"])
        for point in report["points"]
    ]
    title = f"{report['framework']} on {report['dataset']}, {report['images']} images"
    with TemporaryDirectory() as folder:
        path = Path(folder) / "curve.png"
        curve_chart(path, points, title=title)
        return path.read_bytes()
