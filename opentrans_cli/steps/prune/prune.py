"""prune: rounds of removing weights and distilling (OpenTrans, Alg. 1), or one shot without images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.rounds import KEPT_BY_ROUND
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.clip.arrays import arrays
from opentrans_cli.clip.layers import split_packed
from opentrans_cli.distill.loop import StepLog
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import prepare_parent
from opentrans_cli.reporter import LOGGED, SILENT, Reporter
from opentrans_cli.steps.by_name import takes
from opentrans_cli.steps.prune.choice import Choice, RandomChoice, ScoredChoice, Scorer, random_choice
from opentrans_cli.steps.prune.distillation import Distillation, make_distillation
from opentrans_cli.steps.prune.feed import ImageFeed, open_feed
from opentrans_cli.steps.prune.options import PruneOptions, default_out, prune_options
from opentrans_cli.steps.prune.plan import Plan, make_plan
from opentrans_cli.steps.prune.run import PruneRun
from opentrans_cli.steps.run_files import state_to_resume
from opentrans_cli.steps.sources import numpy_masks
from opentrans_cli.steps.step_record import machine, step_record
from opentrans_cli.training.processes.distributed import World, open_world

REPORT = "reports/prune.json"


@dataclass(frozen=True)
class PruneResult:
    """What `prune` made."""

    path: Path
    sparsity: float  # removed / prunable, exact
    kept: int
    total: int
    rounds: int
    criterion: str  # "random" for a random twin
    distilled: bool
    distillation_loss: float | None  # mean over the end of the last round
    skipped_images: int  # unreadable ones, with `skip_bad`
    bytes: int  # of the whole bundle


@takes(PruneOptions)
def prune(
    source: str | Path = PruneOptions.source,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    recipe: str | None = None,
    resume: bool = False,
    workers: int = 0,
    compiled: bool = False,
    on_step: Callable[[StepLog], None] = lambda log: None,
    **given: Any,
) -> PruneResult:
    """Prune the image tower of `source` and write the subnet as a new bundle at `out`.

    Rounds remove the least important weights to the schedule's sparsities; each is followed by `steps_per_round` steps
    of distillation from the source's tower as it was, the last by `final_steps`; no rewinding (OpenTrans, Alg. 1).
    Without `images` nothing is distilled, and there is one round unless earlier ones are kept.

    source: open_clip's NAME[:TAG], "tiny" (embedded), a bundle, a checkpoint, or hf://org/name[@revision].
    out: a new folder; None names it after source and sparsity, in the working directory.
    recipe: "paper" or "fast", values of options that are not given. resume: go on with a run that was killed, to the
    same bundle. workers: processes that decode images. compiled: compile the tower for image distillation.
    on_step: hears of every distillation step. Options: the fields of `PruneOptions`; `sparsity` is removed / prunable
    weights, in [0, 1).

    Under torchrun the processes share every batch, and the first writes. Raises OptionError, SourceError, DataError,
    BundleError, MaskError, HubError or TrainingError; nothing is at `out` then.
    """
    reporter = reporter or LOGGED
    options = prune_options(source, recipe, given)
    out = Path(out or default_out(options))
    with open_world(device) as world:
        check_replaceable(out, force=force)
        plan = make_plan(options, reporter)
        if options.images is None:
            reporter.say(f"no images were given: weights are chosen by {plan.criterion}, and nothing is distilled")
        prepare_parent(out)
        plan.tower.visual.to(world.device)
        feed = open_feed(options, plan.tower.preprocess, world=world, workers=workers, reporter=reporter)
        try:
            run = _run(plan, options, feed, world=world, compiled=compiled, out=out, on_step=on_step, reporter=reporter)
            state = state_to_resume(out, resume=resume, reporter=reporter)
            if state is not None:
                run.restore(state, reporter)
            run.finish(rounds=len(plan.sparsities), reporter=reporter)
        finally:
            if feed is not None:
                feed.close()
        if world.is_main:
            write_bundle(out, _contents(run, plan, options, feed, compiled=compiled), force=force)
            run.discard()
        world.barrier()
        return _result(open_bundle(out), run, plan, feed)


def _run(
    plan: Plan,
    options: PruneOptions,
    feed: ImageFeed | None,
    *,
    world: World,
    compiled: bool,
    out: Path,
    on_step: Callable[[StepLog], None],
    reporter: Reporter,
) -> PruneRun:
    scorer = Scorer(options, feed=feed, world=world)
    choice: Choice = ScoredChoice(scorer, plan.pattern, plan.sparsities)
    if options.random:
        like = None if options.like is None else open_bundle(local_bundle(options.like, reporter))
        choice = random_choice(plan.tower, plan.sparsities, pattern=plan.pattern, scorer=scorer, like=like)
    distillation: Distillation | None = make_distillation(
        plan.tower, feed, options, rounds=len(plan.sparsities), world=world, compiled=compiled, reporter=reporter
    )
    return PruneRun(
        plan.tower,
        choice,
        plan.pattern,
        options,
        distillation=distillation,
        world=world,
        out=out,
        on_step=on_step,
    )


def _result(bundle: Bundle, run: PruneRun, plan: Plan, feed: ImageFeed | None) -> PruneResult:
    return PruneResult(
        path=bundle.path,
        sparsity=bundle.manifest.achieved_sparsity,
        kept=bundle.manifest.kept,
        total=bundle.manifest.total,
        rounds=run.done,
        criterion=_chosen_by(plan, run),
        distilled=run.distillation is not None,
        distillation_loss=run.loss,
        skipped_images=len(feed.views.bad) if feed else 0,
        bytes=bundle.size_bytes,
    )


def _chosen_by(plan: Plan, run: PruneRun) -> str:
    """The criterion, or "random" for a twin, of which it only says how many weights each layer keeps."""
    return "random" if isinstance(run.choice, RandomChoice) else plan.criterion


def _contents(
    run: PruneRun, plan: Plan, options: PruneOptions, feed: ImageFeed | None, *, compiled: bool
) -> BundleContents:
    tower, parent, distillation = plan.tower, plan.tower.bundle, run.distillation
    kept_by_round = run.kept_by_round()
    how = machine(run.world.device, processes=run.world.size)
    recorded = {**asdict(options), "criterion": plan.criterion, "compile": compiled, **how}
    if options.like is not None:  # where the other bundle lies says nothing about the result
        recorded["like"] = open_bundle(local_bundle(options.like, SILENT)).digest
    step = step_record(
        "prune",
        recorded,
        seed=options.seed,
        data=distillation.objective.fingerprint if distillation else feed.fingerprint if feed else None,
        parent=parent.digest if parent else None,
        metrics={"distillation_loss": run.loss, KEPT_BY_ROUND: kept_by_round},
    )
    return BundleContents(
        base=tower.base,
        pattern=plan.pattern.name,
        target_sparsity=options.sparsity,
        masks=numpy_masks(tower.masks),
        tower={} if options.mask_only else split_packed(arrays(tower.visual.state_dict())),
        steps=(*(parent.manifest.steps if parent else ()), step),
        dtype=options.dtype,
        rounds=None if options.keep_rounds == "none" else run.round_of(),
        round_weights=run.round_weights(),
        reports={REPORT: json_bytes(_report(run, plan, feed, kept_by_round))},
    )


def _report(
    run: PruneRun, plan: Plan, feed: ImageFeed | None, kept_by_round: Mapping[str, list[int]]
) -> dict[str, object]:
    """The prune report of `artifacts.schema.json`: what every round and every step did."""
    kept = [sum(counts) for counts in zip(*kept_by_round.values(), strict=True)]
    return {
        "criterion": _chosen_by(plan, run),
        "pattern": plan.pattern.name,
        "total": plan.total,
        "rounds": [{"round": number, "kept": count} for number, count in enumerate(kept, start=1)],
        "steps": [{"step": log.step, "loss": log.loss, "lr": log.lr, **log.terms} for log in run.logs],
        "images": len(feed) if feed else 0,
        "skipped": list(feed.views.bad) if feed else [],
    }
