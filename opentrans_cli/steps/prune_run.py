"""One pruning run: rounds of choosing weights and distilling, saved after each so that a killed run can go on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from opentrans_cli.errors import TrainingError
from opentrans_cli.sparsity.masking import apply_masks, sparsity_of
from opentrans_cli.steps.distilling import Distillation
from opentrans_cli.steps.mask_choice import MagnitudeChoice, RandomChoice
from opentrans_cli.steps.options import PruneOptions
from opentrans_cli.steps.reporter import Reporter
from opentrans_cli.steps.resume import state_path
from opentrans_cli.steps.sources import Tower
from opentrans_cli.training import checkpoint as state_file


class PruneRun:
    """Works on `tower` in place: its weights and its masks."""

    def __init__(
        self,
        tower: Tower,
        choice: MagnitudeChoice | RandomChoice,
        options: PruneOptions,
        *,
        distillation: Distillation | None,
        out: Path,
    ) -> None:
        self.tower, self.choice, self.distillation = tower, choice, distillation
        self.state = state_path(out)
        self.done = 0  # rounds finished
        self.loss: float | None = None
        self._options = asdict(options)
        self._before = dict(tower.masks)  # what a source that is a bundle has already pruned
        self._round_of = {layer: torch.zeros(mask.shape, dtype=torch.uint8) for layer, mask in tower.masks.items()}

    def finish(self, *, rounds: int, reporter: Reporter) -> None:
        """Run the rounds that are not done yet."""
        while self.done < rounds:
            number = self.done
            self._cut(number)
            if self.distillation is not None:
                title = f"round {number + 1}/{rounds}, sparsity {sparsity_of(self.tower.masks):.3f}"
                self.loss = self.distillation.run_round(self.tower, number, title=title, reporter=reporter)
            self.done += 1
            if self.distillation is not None and self.done < rounds:
                self._save(self.distillation)

    def _cut(self, number: int) -> None:
        for layer, mask in self.choice.masks(self.tower, number).items():
            kept = mask.cpu()
            self._round_of[layer][self.tower.masks[layer] & ~kept] = number + 1
            self.tower.masks[layer] = kept
        apply_masks(self.tower.visual, self.tower.masks)

    def round_of(self) -> dict[str, np.ndarray]:
        """By layer, uint8: the round in which a weight was pruned, 0 = kept; 1 also for what was gone before."""
        return {
            layer: np.where(self._before[layer].numpy(), array.numpy(), np.uint8(1))
            for layer, array in self._round_of.items()
        }

    def kept_by_round(self) -> dict[str, list[int]]:
        """By layer: weights kept after each round, what a random twin copies."""
        rounds = range(1, self.done + 1)
        return {
            layer: [int(((array == 0) & self._before[layer] | (array > number)).sum()) for number in rounds]
            for layer, array in self._round_of.items()
        }

    def _identity(self, distillation: Distillation) -> dict[str, object]:
        identity = {"verb": "prune", "options": self._options, "images": distillation.fingerprint}
        return json.loads(json.dumps(identity))  # type: ignore[no-any-return]

    def _save(self, distillation: Distillation) -> None:
        visual = self.tower.visual
        slots = state_file.optimizer_tensors(distillation.optimizer, dict(visual.named_parameters()))
        tensors = {
            **state_file.with_prefix("tower", visual.state_dict()),
            **state_file.with_prefix("round_of", self._round_of),
            **state_file.with_prefix("optimizer", slots),
        }
        meta = {**self._identity(distillation), "done": self.done, "loss": self.loss}
        state_file.save_state(self.state, tensors=tensors, meta=meta)

    def restore(self, state: Path, reporter: Reporter) -> None:
        """Go on after the last round `state` holds.

        Raises TrainingError if it belongs to a run with other options or images.
        """
        if self.distillation is None:
            return
        tensors, meta = state_file.load_state(state)
        for key, value in self._identity(self.distillation).items():
            if meta.get(key) != value:
                raise TrainingError(
                    f"state of another run ({key} differ): {state}; repeat its options, or leave --resume out"
                )
        visual = self.tower.visual
        state_file.restore_module(visual, state_file.under_prefix("tower", tensors), origin=str(state))
        self._round_of = state_file.under_prefix("round_of", tensors)
        self.tower.masks.update({layer: self._before[layer] & (array == 0) for layer, array in self._round_of.items()})
        state_file.restore_optimizer(
            self.distillation.optimizer,
            dict(visual.named_parameters()),
            tensors=state_file.under_prefix("optimizer", tensors),
        )
        self.done, self.loss = meta["done"], meta["loss"]
        reporter.say(f"resuming after round {self.done}")
