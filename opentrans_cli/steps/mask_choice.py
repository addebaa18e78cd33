"""Which weights a round keeps: by magnitude, or at random with the same counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from opentrans_cli.bundle.store import Bundle
from opentrans_cli.clip.layers import layer_weights
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.importance import magnitude
from opentrans_cli.sparsity.twin import random_twin_masks
from opentrans_cli.steps.sources import Tower

KEPT_BY_ROUND = "kept_by_round"
"""Metric of a prune step: layer -> weights kept after each round."""

Pattern = Callable[..., dict[str, Tensor]]


class MagnitudeChoice:
    """The paper's criterion: the smallest weights of the whole tower go, as they are when the round begins."""

    def __init__(self, pattern: Pattern, sparsities: Sequence[float]) -> None:
        self.pattern, self.sparsities = pattern, sparsities

    def masks(self, tower: Tower, number: int) -> dict[str, Tensor]:
        """Masks (bool, True = kept) of round `number`, counted from 0, inside those the tower has."""
        scores = magnitude(layer_weights(tower.visual, tower.masks))
        inside = {layer: mask.to(scores[layer].device) for layer, mask in tower.masks.items()}
        return self.pattern(scores, self.sparsities[number], inside=inside)


class RandomChoice:
    """Nested random masks, drawn once."""

    def __init__(self, tower: Tower, counts: Sequence[Mapping[str, int]], *, seed: int) -> None:
        shapes = {layer: tuple(mask.shape) for layer, mask in tower.masks.items()}
        self.rounds = random_twin_masks(counts, shapes, seed)

    def masks(self, tower: Tower, number: int) -> dict[str, Tensor]:
        """Masks of round `number`, counted from 0."""
        return self.rounds[number]


def twin_counts(
    tower: Tower, sparsities: Sequence[float], *, pattern: Pattern, like: Bundle | None
) -> list[dict[str, int]]:
    """Kept weights by layer for each round of a random twin.

    They are those of the bundle `like`, round by round; without one, those of magnitude pruning the tower's own
    weights to each sparsity. Raises OptionError if `like` was pruned by another schedule.
    """
    if like is None:
        scores = magnitude(layer_weights(tower.visual, tower.masks))
        return [
            {layer: int(mask.sum()) for layer, mask in pattern(scores, sparsity).items()} for sparsity in sparsities
        ]
    manifest = like.manifest
    step = next((step for step in reversed(manifest.steps) if step.verb == "prune"), None)
    by_round = step.metrics.get(KEPT_BY_ROUND, {}) if step else {}
    same_run = manifest.base.digest == tower.base.digest and abs(manifest.target_sparsity - sparsities[-1]) < 1e-9
    if not same_run or {len(by_round.get(layer, ())) for layer in tower.masks} != {len(sparsities)}:
        raise OptionError(
            f"not the twin of this run: {like.path} has another base, sparsity or number of rounds; "
            "repeat the options it was made with, and add --random"
        )
    return [{layer: int(by_round[layer][number]) for layer in tower.masks} for number in range(len(sparsities))]
