"""What a pruning run is going to do: layers, pattern and rounds, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from opentrans_cli.clip.layers import choose_layers, tower_candidates
from opentrans_cli.errors import OptionError
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.sparsity.patterns.base import Pattern, pattern_for
from opentrans_cli.sparsity.schedule import schedule
from opentrans_cli.sparsity.selection import sparsity_of
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions
from opentrans_cli.steps.sources import Tower, load_tower, with_layers
from opentrans_cli.training.settings import TrainSettings


@dataclass(frozen=True)
class PrunePlan:
    """The tower with the layers that are pruned, the form their masks take, and the sparsity of each round."""

    tower: Tower  # its masks name the layers
    pattern: Pattern
    sparsities: tuple[float, ...]
    criterion: str
    layers: tuple[dict[str, Any], ...]  # every layer that could be pruned: name, shape, total, pruned, reason if not

    @property
    def total(self) -> int:
        """The number of prunable weights."""
        return sum(mask.size for mask in self.tower.masks.values())

    def to_json(self) -> dict[str, Any]:
        """The prune plan of `artifacts.schema.json`."""
        rounds = [
            {"round": number, "sparsity": sparsity, "kept": self.total - round(sparsity * self.total)}
            for number, sparsity in enumerate(self.sparsities, start=1)
        ]
        return {
            "pattern": self.pattern.name,
            "criterion": self.criterion,
            "total": self.total,
            "layers": list(self.layers),
            "rounds": rounds,
        }


def plan(options: PruneOptions, *, reporter: Reporter = SILENT) -> PrunePlan:
    """What `prune` would do with these options; reads the source and writes nothing.

    Raises OptionError, SourceError or BundleError, as `prune` does.
    """
    return make_prune_plan(options, reporter)


def prune_settings(options: PruneOptions, controls: PruneControls, *, steps: int) -> TrainSettings:
    """The settings of the training loop for a run of `steps` steps."""
    return TrainSettings(
        steps=steps,
        batch_size=options.batch_size,
        lr=options.lr,
        weight_decay=options.weight_decay,
        decay_all=True,
        schedule="constant",  # the rate is `Timetable.learning_rate`
        grad_clip=options.grad_clip,
        precision=options.precision,  # type: ignore[arg-type]
        seed=options.seed,
        save_every=controls.save_every,
        log_every=1,
        max_minutes=controls.max_minutes,
    )


def make_prune_plan(options: PruneOptions, reporter: Reporter) -> PrunePlan:
    """Load the source, choose layers and pattern, and lay out the rounds that remove something."""
    tower = load_tower(options.source, reporter)
    if options.distill != "text-guided":
        tower = replace(tower, clip=None)  # the run embeds no text, so the text tower is not kept
    pattern = pattern_for(options.pattern, tower.base.model_cfg)
    found = tower_candidates(tower.shapes)
    if tower.bundle is None:
        chosen = choose_layers(found, include=options.include, exclude=options.exclude)
    elif options.include or options.exclude:
        raise OptionError(f"a bundle's layers are chosen already: {options.source}; leave --include, --exclude out")
    else:
        chosen = tuple(tower.masks)
    wanted = pattern.layers(chosen)
    problems = {
        candidate.name: problem
        for candidate in found
        if candidate.name in wanted and (problem := pattern.problem(candidate.name, candidate.shape)) is not None
    }
    kept = tuple(layer for layer in wanted if layer not in problems)
    tower = with_layers(tower, kept)
    for layer, problem in problems.items():
        reporter.say(f"left dense: {layer}: {problem}")
    reasons = {candidate.name: candidate.reason or "not chosen" for candidate in found} | problems
    layers = tuple(
        {
            "name": candidate.name,
            "shape": list(candidate.shape),
            "total": candidate.total,
            "pruned": candidate.name in kept,
            "reason": None if candidate.name in kept else reasons[candidate.name],
        }
        for candidate in found
    )
    _check_reachable(tower, pattern, options)
    sparsities = pattern.rounds(_sparsities(tower, options))
    return PrunePlan(tower, pattern, sparsities, options.resolved_criterion, layers)


def _sparsities(tower: Tower, options: PruneOptions) -> tuple[float, ...]:
    """Sparsity of each round. Without images no round is trained, so one is enough unless all are kept."""
    name = "one-shot" if options.images is None and options.keep_rounds == "none" else options.schedule
    already = sparsity_of(tower.masks)
    return schedule(name, options.sparsity, start=already, rate=options.rate, rounds=options.rounds)


def _check_reachable(tower: Tower, pattern: Pattern, options: PruneOptions) -> None:
    already = sparsity_of(tower.masks)
    if already > options.sparsity:
        raise OptionError(
            f"source is sparser than the target: {options.source} has {already:.4f}, asked for {options.sparsity}; "
            "choose a higher --sparsity"
        )
    if pattern.sparsity is not None and abs(pattern.sparsity - options.sparsity) > 1e-6:
        raise OptionError(
            f"pattern has one sparsity: {pattern.name} removes {pattern.sparsity:g}, asked for {options.sparsity:g}; "
            f"give --sparsity {pattern.sparsity:g}"
        )
    if options.random and tower.bundle is not None:
        raise OptionError(
            f"a random control starts from the dense tower, not from a bundle: {options.source}; give its base"
        )
