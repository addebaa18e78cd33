"""prune: rounds of removing weights and distilling (OpenTrans, Alg. 1), or one shot without images."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.rounds import KEPT_BY_ROUND
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_parent, prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import takes
from opentrans_cli.steps.prune.choice import Choice, RandomChoice, ScoredChoice, Scorer, random_choice
from opentrans_cli.steps.prune.cuts import Cuts
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions, default_out, prune_options
from opentrans_cli.steps.prune.plan import PrunePlan, make_prune_plan
from opentrans_cli.steps.run_files import Finishing, check_places, check_state, resumable, state_to_resume
from opentrans_cli.steps.step_record import ALONE, step_record

if TYPE_CHECKING:
    from opentrans_cli.steps.prune.loader import ImageLoader

REPORT = "reports/prune.json"


@dataclass(frozen=True)
class PruneResult:
    """What `prune` made."""

    path: Path
    sparsity: float  # removed / prunable, exact
    kept: int
    total: int
    rounds: int
    criterion: str  # "random" for the random control
    distilled: bool
    distillation_loss: float | None  # mean over the end of the last round
    skipped_images: int  # unreadable ones, with `skip_bad`
    bytes: int  # of the whole bundle
    log: Path | None  # JSON lines; None without distillation

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**asdict(self), "path": str(self.path), "log": None if self.log is None else str(self.log)}


@takes(PruneOptions, PruneControls)
def prune(
    source: str | Path = PruneOptions.source,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    recipe: str | None = None,
    resume: bool = False,
    **given: Any,
) -> PruneResult:
    """Prune the image tower of `source` and write the subnet as a new bundle at `out`.

    Rounds remove the least important weights to the schedule's sparsities; each is followed by `steps_per_round` steps
    of distillation from the source's tower as it was, the last by `final_steps`; no rewinding (OpenTrans, Alg. 1).
    Without `images` nothing is distilled, and there is one round unless earlier ones are kept.

    source: open_clip's NAME[:TAG], "tiny" (embedded), a bundle, a checkpoint, or hf://org/name[@revision].
    out: a new folder; None names it after source and sparsity, in the working directory.
    recipe: "paper" or "fast", values of options that are not given. resume: go on with a run that was interrupted, from
    the step of its last state to the same bundle; without it and without `force` a state is refused. Options: the
    fields of `PruneOptions` and `PruneControls`; `sparsity` is removed / prunable weights, in [0, 1).

    Under torchrun the processes share every batch, and the first writes. Raises OptionError, SourceError, DataError,
    BundleError, MaskError, HubError, OutputError or TrainingError; nothing is at `out` then. RunStopped when
    `max_minutes` are over, after SIGTERM, or when the disk is full, with a state to go on from.
    """
    reporter = reporter or LOGGED
    # Worker processes import the calling script, which must be written for that, so they start only if asked for.
    options, controls = prune_options(source, recipe, {"workers": 0, **given})
    out = Path(out or default_out(options))
    with resumable(out) as finishing:
        if options.images is not None or os.environ.get("WORLD_SIZE", "1") != "1":
            return _with_images(
                options,
                controls,
                out,
                device=device,
                force=force,
                resume=resume,
                finishing=finishing,
                reporter=reporter,
            )
        if device not in ("auto", "cpu"):
            from opentrans_cli.training.device import resolve_device

            resolve_device(device)  # refuses a device that is missing, which nothing else here does
        _check(controls, out, force=force, resume=resume)
        if controls.log is not None:
            from opentrans_cli.steps.run_log import check_log

            check_log(out, controls.log)
        plan = _planned(options, out, reporter)
        state_to_resume(out, resume=resume, reporter=reporter)
        cuts = Cuts(plan, _choice(plan, Scorer(options), reporter), options, controls, out=out)
        for number in range(cuts.rounds):
            cuts.cut(number)
        with finishing():
            write_bundle(out, _contents(cuts, plan, None, _recorded(cuts, plan, ALONE), None), force=force)
            cuts.discard()
        return _result(open_bundle(out), cuts, plan, None, None)


def _check(controls: PruneControls, out: Path, *, force: bool, resume: bool) -> None:
    check_replaceable(out, force=force)
    check_state(out, resume=resume, force=force)
    check_parent(out)
    check_places(out, {"--log": controls.log})


def _planned(options: PruneOptions, out: Path, reporter: Reporter) -> PrunePlan:
    plan = make_prune_plan(options, reporter)
    if options.images is None:
        reporter.say(f"no images were given: weights are chosen by {plan.criterion}, and nothing is distilled")
    prepare_parent(out)
    return plan


def _choice(plan: PrunePlan, scorer: Scorer, reporter: Reporter) -> Choice:
    if not scorer.options.random:
        return ScoredChoice(scorer, plan.pattern, plan.sparsities)
    like = None if scorer.options.like is None else open_bundle(local_bundle(scorer.options.like, reporter))
    return random_choice(plan.tower, plan.sparsities, pattern=plan.pattern, scorer=scorer, like=like)


def _with_images(
    options: PruneOptions,
    controls: PruneControls,
    out: Path,
    *,
    device: str,
    force: bool,
    resume: bool,
    finishing: Finishing,
    reporter: Reporter,
) -> PruneResult:
    """Prune with images, which needs torch, processes, a training loop and its log."""
    from opentrans_cli.steps.prune.distillation import make_objective
    from opentrans_cli.steps.prune.loader import open_loader
    from opentrans_cli.steps.prune.run import PruneRun, Timetable
    from opentrans_cli.steps.run_log import RunLog, check_log, log_path
    from opentrans_cli.steps.step_record import environment, machine
    from opentrans_cli.training import state_file
    from opentrans_cli.training.processes.distributed import open_world

    with open_world(device) as world:
        _check(controls, out, force=force, resume=resume)
        if world.is_main:
            check_log(out, controls.log)
        plan = _planned(options, out, reporter)
        plan.tower.visual.to(world.device)
        loader = open_loader(options, plan.tower.preprocess, world=world, workers=controls.workers, reporter=reporter)
        state = state_to_resume(out, resume=resume, reporter=reporter)
        taken = None if state is None else int(state_file.load_meta(state).get("step", 0))
        try:
            distils = loader is not None and options.distill != "none"
            writes = world.is_main and distils
            with RunLog.beside(out, controls.log, resumed_at=taken, writes=writes, reporter=reporter) as log:
                choice = _choice(plan, Scorer(options, loader=loader, world=world), reporter)
                timetable = Timetable(len(plan.sparsities), options.steps_per_round, options.final_steps)
                objective = make_objective(
                    plan.tower,
                    loader,
                    options,
                    steps=timetable.total,
                    world=world,
                    compiled=controls.compile,
                    reporter=reporter,
                )
                run = PruneRun(
                    plan,
                    choice,
                    options,
                    controls,
                    timetable,
                    objective=objective,
                    world=world,
                    out=out,
                    log=log,
                    reporter=reporter,
                )
                recorded = _recorded(run, plan, machine(world.device, processes=world.size))
                data = objective.fingerprint if objective else loader.fingerprint if loader else None
                images = {"fingerprint": data, "images": len(loader) if loader else 0}
                log.start(options=recorded, data=images, environment=environment(world.device))
                run.finish(state=state, data=data)
                if world.is_main:
                    with finishing():
                        write_bundle(out, _contents(run, plan, loader, recorded, data), force=force)
                        run.discard()
                world.barrier()
                log.end(seconds_per_step=run.seconds_per_step)
        finally:
            if loader is not None:
                loader.close()
        log_file = log_path(out, controls.log) if distils else None
        return _result(open_bundle(out), run, plan, loader, log_file)


def _result(bundle: Bundle, run: Cuts, plan: PrunePlan, loader: ImageLoader | None, log: Path | None) -> PruneResult:
    return PruneResult(
        path=bundle.path,
        sparsity=bundle.manifest.achieved_sparsity,
        kept=bundle.manifest.kept,
        total=bundle.manifest.total,
        rounds=run.rounds,
        criterion=_chosen_by(plan, run),
        distilled=run.loss is not None,
        distillation_loss=run.loss,
        skipped_images=len(loader.views.bad) if loader else 0,
        bytes=bundle.size_bytes,
        log=log,
    )


def _chosen_by(plan: PrunePlan, run: Cuts) -> str:
    """The criterion, or "random" for a control, where the criterion only decides how many weights a layer keeps."""
    return "random" if isinstance(run.choice, RandomChoice) else plan.criterion


def _recorded(run: Cuts, plan: PrunePlan, how: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the run as the bundle records them."""
    options = run.options
    recorded = {**asdict(options), "criterion": plan.criterion, "compile": run.controls.compile, **how}
    like = run.choice.like if isinstance(run.choice, RandomChoice) else None
    if like is not None:  # the path of the other bundle does not affect the result
        recorded["like"] = like.digest
    return recorded


def _contents(
    run: Cuts, plan: PrunePlan, loader: ImageLoader | None, recorded: Mapping[str, Any], data: str | None
) -> BundleContents:
    tower, parent, options = plan.tower, plan.tower.bundle, run.options
    kept_by_round = run.kept_by_round()
    step = step_record(
        "prune",
        recorded,
        seed=options.seed,
        data=data,
        parent=parent.digest if parent else None,
        metrics={"distillation_loss": run.loss, KEPT_BY_ROUND: kept_by_round},
    )
    return BundleContents(
        base=tower.base,
        pattern=plan.pattern.name,
        target_sparsity=options.sparsity,
        masks=tower.masks,
        tower={} if options.mask_only else run.tower_tensors(),
        steps=(*(parent.manifest.steps if parent else ()), step),
        dtype=options.dtype,
        rounds=None if options.keep_rounds == "none" else run.round_of(),
        round_weights=run.round_weights(),
        reports={REPORT: json_bytes(_report(run, plan, loader, kept_by_round))},
    )


def _report(
    run: Cuts, plan: PrunePlan, loader: ImageLoader | None, kept_by_round: Mapping[str, list[int]]
) -> dict[str, object]:
    """The prune report of `artifacts.schema.json`: what every round and every step did."""
    kept = [sum(counts) for counts in zip(*kept_by_round.values(), strict=True)]
    return {
        "criterion": _chosen_by(plan, run),
        "pattern": plan.pattern.name,
        "total": plan.total,
        "rounds": [{"round": number, "kept": count} for number, count in enumerate(kept, start=1)],
        "steps": run.steps,
        "images": len(loader) if loader else 0,
        "skipped": list(loader.views.bad) if loader else [],
    }
