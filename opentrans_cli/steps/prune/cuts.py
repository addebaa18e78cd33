"""The rounds of a pruning run: which weights each round removes. A run without images does nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.layout import Tensors
from opentrans_cli.bundle.nested import kept_after, masks_after
from opentrans_cli.sparsity.patterns.base import Pattern
from opentrans_cli.sparsity.selection import Mask
from opentrans_cli.steps.prune.choice import Choice
from opentrans_cli.steps.prune.options import PruneControls, PruneOptions
from opentrans_cli.steps.prune.plan import PrunePlan
from opentrans_cli.steps.run_files import discard_state


class Cuts:
    """Works on the masks of `plan.tower`; nothing is trained, and the tower stays as it is."""

    def __init__(
        self, plan: PrunePlan, choice: Choice, options: PruneOptions, controls: PruneControls, *, out: Path
    ) -> None:
        self.tower, self.choice, self.pattern, self.rounds = plan.tower, choice, plan.pattern, len(plan.sparsities)
        self.options, self.controls, self.out = options, controls, out
        self.steps: list[dict[str, float]] = []  # for the report: step from 0, loss, learning rate, figures of the loss
        self.loss: float | None = None  # mean over the last quarter of the last round; None without distillation
        self._before = dict(self.tower.masks)  # what was already pruned if the source is a bundle
        self._round_of = {layer: np.zeros(mask.shape, np.uint8) for layer, mask in self._before.items()}

    def cut(self, number: int) -> None:
        """Remove the weights of round `number`, counted from 0, from the masks."""
        for layer, mask in self.choice.masks(self.tower, number).items():
            self._round_of[layer][self.tower.masks[layer] & ~mask] = number + 1
            self.tower.masks[layer] = mask

    def round_of(self) -> dict[str, NDArray[np.uint8]]:
        """By layer: the round in which a weight was pruned, 0 = kept; 1 also for weights pruned before the run."""
        return {layer: np.where(self._before[layer], found, np.uint8(1)) for layer, found in self._round_of.items()}

    def tower_tensors(self) -> Tensors:
        """The tensors of the tower, one for each layer, with zeros where they are pruned."""
        return cut_state(self.tower.state, self.tower.masks, self.pattern)

    def round_weights(self) -> Mapping[int, Tensors]:
        """The tower's tensors after each round but the last, by round counted from 1, if they were asked for."""
        return _Untrained(self) if self.options.keep_rounds == "weights" else {}

    def kept_by_round(self) -> dict[str, list[int]]:
        """By layer: the number of weights kept after each round, which a random control copies."""
        return kept_after(self.round_of(), self.rounds)

    def discard(self) -> None:
        """Remove the files that only a resumed run would need."""
        discard_state(self.out)


def cut_state(state: Tensors, masks: Mapping[str, Mask], pattern: Pattern) -> Tensors:
    """Tensors with zeros where they are pruned, in the layers and in their coupled parameters."""
    zeroed = {f"{layer}.weight": mask for layer, mask in masks.items()} | pattern.coupled(masks)
    return {**state, **{name: np.where(mask, state[name], np.float32(0)) for name, mask in zeroed.items()}}


class _Untrained(Mapping[int, Tensors]):
    """Towers after rounds, made only when they are read, because those of a full-size tower take gigabytes."""

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts

    def __getitem__(self, number: int) -> Tensors:
        cuts = self._cuts
        return cut_state(cuts.tower.state, masks_after(cuts.round_of(), number), cuts.pattern)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, self._cuts.rounds))

    def __len__(self) -> int:
        return self._cuts.rounds - 1
