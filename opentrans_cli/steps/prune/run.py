"""One pruning run: rounds of choosing weights and distilling, saved after each so that a killed run can go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.bundle.layout import Tensors
from opentrans_cli.bundle.nested import kept_after
from opentrans_cli.distill.loop import StepLog, final_loss
from opentrans_cli.errors import TrainingError
from opentrans_cli.reporter import Reporter
from opentrans_cli.sparsity.masking import apply_masks, hold, sparsity_of
from opentrans_cli.sparsity.patterns.base import Pattern
from opentrans_cli.steps.prune.choice import Choice
from opentrans_cli.steps.prune.distillation import Distillation
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.prune.state import RunState, Snapshots
from opentrans_cli.steps.sources import Tower
from opentrans_cli.training.processes.distributed import World


class PruneRun:
    """Works on `tower` in place: its weights and its masks."""

    def __init__(
        self,
        tower: Tower,
        choice: Choice,
        pattern: Pattern,
        options: PruneOptions,
        *,
        distillation: Distillation | None,
        world: World,
        out: Path,
        on_step: Callable[[StepLog], None] = lambda log: None,
    ) -> None:
        self.tower, self.choice, self.pattern = tower, choice, pattern
        self.distillation, self.world = distillation, world
        self.done = 0  # rounds finished
        self.logs: list[StepLog] = []
        self._on_step = on_step
        self._state = RunState(out, asdict(options))
        self._snapshots = Snapshots(out) if options.keep_rounds == "weights" else None
        self._before = dict(tower.masks)  # what a source that is a bundle has already pruned
        self._round_of = {layer: torch.zeros(mask.shape, dtype=torch.uint8) for layer, mask in tower.masks.items()}

    @property
    def loss(self) -> float | None:
        """Mean distillation loss of the end of the last round; None without distillation."""
        if self.distillation is None:
            return None
        first = self.distillation.settings.first_step(self.done - 1)
        return final_loss([log for log in self.logs if log.step >= first])

    def finish(self, *, rounds: int, reporter: Reporter) -> None:
        """Run the rounds that are not done yet.

        Raises TrainingError for a loss that is not finite; the state after the last good round stays on the disk.
        """
        if self._snapshots is not None and self.done == 0 and self.world.is_main:
            self._snapshots.discard()  # those of an interrupted run that is not resumed belong to other weights
        while self.done < rounds:
            number = self.done
            self._cut(number)
            if self.distillation is not None:
                self._distil(number, rounds=rounds, reporter=reporter)
            self.done += 1
            last = self.done == rounds
            if self._snapshots is not None and not last and self.world.is_main:
                self._snapshots.save(self.done, self.tower.visual)
            if self.distillation is not None and not last:
                self._save(self.distillation)
        if self.distillation is not None:
            self.distillation.objective.detach()

    def _cut(self, number: int) -> None:
        for layer, mask in self.choice.masks(self.tower, number).items():
            kept = mask.cpu()
            self._round_of[layer][self.tower.masks[layer] & ~kept] = number + 1
            self.tower.masks[layer] = kept
        apply_masks(self.tower.visual, self.tower.masks, self._coupled())

    def _coupled(self) -> dict[str, Tensor]:
        return self.pattern.coupled(self.tower.masks)

    def _distil(self, number: int, *, rounds: int, reporter: Reporter) -> None:
        assert self.distillation is not None
        try:
            self.logs += self.distillation.run_round(
                number,
                title=f"round {number + 1}/{rounds}, sparsity {sparsity_of(self.tower.masks):.3f}",
                after_step=hold(self.tower.visual, self.tower.masks, self._coupled()),
                on_step=self._on_step,
                reporter=reporter,
            )
        except TrainingError as error:
            if self.done == 0:
                raise TrainingError(f"{error} and start again") from error
            kept = f"round {self.done} of {rounds} is kept"
            raise TrainingError(f"{error}, {kept}: go on from there with --resume --lr SMALLER") from error

    def round_of(self) -> dict[str, np.ndarray]:
        """By layer, uint8: the round in which a weight was pruned, 0 = kept; 1 also for what was gone before."""
        return {
            layer: np.where(self._before[layer].numpy(), array.numpy(), np.uint8(1))
            for layer, array in self._round_of.items()
        }

    def round_weights(self) -> Mapping[int, Tensors]:
        """By round, from 1, all but the last: the tower's tensors after it, where they were asked for."""
        return self._snapshots or {}

    def kept_by_round(self) -> dict[str, list[int]]:
        """By layer: weights kept after each round, what a random twin copies."""
        return kept_after(self.round_of(), self.done)

    def _save(self, distillation: Distillation) -> None:
        if self.world.is_main:
            self._state.save(self.tower.visual, distillation, round_of=self._round_of, logs=self.logs, done=self.done)
        self.world.barrier()

    def restore(self, state: Path, reporter: Reporter) -> None:
        """Go on after the last round `state` holds.

        Raises TrainingError if it belongs to a run with other options or images; only the learning rate may differ,
        and that is said aloud.
        """
        if self.distillation is None:
            return
        restored = self._state.load(state, self.tower.visual, self.distillation, reporter=reporter)
        self._round_of, self.logs, self.done = restored.round_of, restored.logs, restored.done
        self.tower.masks.update({layer: self._before[layer] & (array == 0) for layer, array in self._round_of.items()})
        reporter.say(f"resuming after round {self.done}")

    def discard(self) -> None:
        """Remove what only a resumed run would need."""
        self._state.discard()
        if self._snapshots is not None:
            self._snapshots.discard()
