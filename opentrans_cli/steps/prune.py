"""prune: iterative magnitude pruning with CLIP distillation (OpenTrans, Alg. 1), or one shot without images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from opentrans_cli.bundle.contents import BundleContents
from opentrans_cli.bundle.folder import check_replaceable
from opentrans_cli.bundle.manifest import DTYPES
from opentrans_cli.bundle.store import Bundle, open_bundle, write_bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.masking import sparsity_of
from opentrans_cli.sparsity.patterns import PATTERNS
from opentrans_cli.sparsity.schedule import imp_sparsities, one_shot
from opentrans_cli.steps.distilling import Distillation
from opentrans_cli.steps.mask_choice import KEPT_BY_ROUND, MagnitudeChoice, RandomChoice, twin_counts
from opentrans_cli.steps.options import PruneOptions
from opentrans_cli.steps.pixels import distillation_images
from opentrans_cli.steps.provenance import arrays, resolve_device, step_record
from opentrans_cli.steps.prune_run import PruneRun
from opentrans_cli.steps.reporter import SILENT, Reporter
from opentrans_cli.steps.resume import discard_state, state_to_resume
from opentrans_cli.steps.sources import Tower, load_tower, numpy_masks
from opentrans_cli.steps.target import prepare_parent

MAX_ROUNDS = 255  # one byte per weight holds the round that pruned it


@dataclass(frozen=True)
class PruneResult:
    """What `prune` made."""

    path: Path
    sparsity: float  # removed / prunable, exact
    kept: int
    total: int
    rounds: int
    distilled: bool
    distillation_loss: float | None  # mean over the end of the last round; squared distance of unit vectors
    bytes: int  # of the whole bundle


def prune(
    options: PruneOptions,
    *,
    out: Path,
    device: str = "auto",
    force: bool = False,
    resume: bool = False,
    reporter: Reporter = SILENT,
) -> PruneResult:
    """Prune the tower of `options.source` and write the subnet as a new bundle at `out`.

    Rounds of global magnitude pruning over every convolution but the first, each followed by `steps_per_round` steps
    of label-free distillation from the source's tower as it was, the last by `final_steps`; no rewinding. With
    `resume` a run that was killed goes on at its round and ends with the same masks. Raises OptionError, SourceError,
    DataError, BundleError or TrainingError.
    """
    _check_options(options)
    sparsities = _schedule(options)
    check_replaceable(out, force=force)
    where = resolve_device(device)
    tower = load_tower(options.source, reporter)
    _check_reachable(tower, options)
    sparsities = _rounds_ahead(sparsities, tower)
    distillation = _distillation(tower, options, rounds=len(sparsities), device=where, reporter=reporter)
    prepare_parent(out)
    run = PruneRun(tower, _choice(tower, sparsities, options), options, distillation=distillation, out=out)
    state = state_to_resume(out, resume=resume, reporter=reporter)
    if state is not None:
        run.restore(state, reporter)
    run.finish(rounds=len(sparsities), reporter=reporter)
    bundle = write_bundle(out, _contents(run, tower, options), force=force)
    discard_state(out)
    return _result(bundle, run)


def _result(bundle: Bundle, run: PruneRun) -> PruneResult:
    return PruneResult(
        path=bundle.path,
        sparsity=bundle.manifest.achieved_sparsity,
        kept=bundle.manifest.kept,
        total=bundle.manifest.total,
        rounds=run.done,
        distilled=run.distillation is not None,
        distillation_loss=run.loss,
        bytes=bundle.size_bytes,
    )


def _distillation(
    tower: Tower, options: PruneOptions, *, rounds: int, device: torch.device, reporter: Reporter
) -> Distillation | None:
    """Images and teacher; None, said aloud, without images."""
    if options.images is None:
        if options.sparsity > 0:
            reporter.say("no images given: one-shot pruning without distillation; add --images to win accuracy back")
        return None
    size, limit = tower.preprocess.size, options.image_limit
    images = distillation_images(options.images, size=size, limit=limit, seed=options.seed, reporter=reporter)
    return Distillation(tower, images, options, rounds=rounds, device=device)


def _check_options(options: PruneOptions) -> None:
    """What can be refused before anything is read."""
    PATTERNS.load(options.pattern)
    if options.dtype not in DTYPES:
        raise OptionError(f"unknown dtype: '{options.dtype}'; choose one of {', '.join(DTYPES)}")
    if not 0 < options.lr < math.inf:
        raise OptionError(f"learning rate out of range: {options.lr}; choose a number above 0")
    if min(options.steps_per_round, options.final_steps) < 1 or options.batch_size < 2:
        raise OptionError(
            "too little to distil: --steps-per-round and --final-steps must be at least 1, --batch-size at least 2; "
            "leave them out for defaults"
        )
    if options.like is not None and not options.random:
        raise OptionError("--like names the bundle a random twin copies; add --random")


def _schedule(options: PruneOptions) -> tuple[float, ...]:
    if options.images is None:
        return one_shot(options.sparsity)
    sparsities = imp_sparsities(options.sparsity, rate=options.rate)
    if len(sparsities) > MAX_ROUNDS:
        raise OptionError(
            f"too many rounds: --rate {options.rate} takes {len(sparsities)}, at most {MAX_ROUNDS} fit; raise it"
        )
    return sparsities


def _rounds_ahead(sparsities: tuple[float, ...], tower: Tower) -> tuple[float, ...]:
    """The rounds that remove weights of a tower that a bundle may have pruned already; at least the last one."""
    already = sparsity_of(tower.masks)
    return tuple(sparsity for sparsity in sparsities if sparsity > already) or sparsities[-1:]


def _check_reachable(tower: Tower, options: PruneOptions) -> None:
    already = sparsity_of(tower.masks)
    if already > options.sparsity:
        raise OptionError(
            f"source is sparser than the target: {options.source} has {already:.4f}, asked for {options.sparsity}; "
            "choose a higher --sparsity"
        )
    if options.random and tower.bundle is not None:
        raise OptionError(
            f"a random twin starts from the dense tower, not from a bundle: {options.source}; give its base"
        )


def _choice(tower: Tower, sparsities: tuple[float, ...], options: PruneOptions) -> MagnitudeChoice | RandomChoice:
    pattern = PATTERNS.load(options.pattern)
    if not options.random:
        return MagnitudeChoice(pattern, sparsities)
    like = None if options.like is None else open_bundle(options.like)
    counts = twin_counts(tower, sparsities, pattern=pattern, like=like)
    return RandomChoice(tower, counts, seed=options.seed)


def _contents(run: PruneRun, tower: Tower, options: PruneOptions) -> BundleContents:
    parent, distillation = tower.bundle, run.distillation
    recorded = asdict(options)
    if options.like is not None:  # where the other bundle lies says nothing about the result
        recorded["like"] = open_bundle(options.like).digest
    step = step_record(
        "prune",
        recorded,
        seed=options.seed,
        data=distillation.fingerprint if distillation else None,
        parent=parent.digest if parent else None,
        metrics={"distillation_loss": run.loss, KEPT_BY_ROUND: run.kept_by_round()},
    )
    return BundleContents(
        base=tower.base,
        pattern=options.pattern,
        target_sparsity=options.sparsity,
        masks=numpy_masks(tower.masks),
        tower=arrays(tower.visual.state_dict()),
        steps=(*(parent.manifest.steps if parent else ()), step),
        dtype=options.dtype,
        rounds=run.round_of() if options.keep_rounds else None,
    )
