"""Which weights a round keeps: by magnitude, or at random with the same counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.importance import magnitude
from opentrans_cli.sparsity.twin import random_twin_masks
from opentrans_cli.steps.sources import Tower

Pattern = Callable[..., dict[str, Tensor]]


class MagnitudeChoice:
    """The paper's criterion: the smallest weights of the whole tower go, as they are when the round begins."""

    def __init__(self, pattern: Pattern, sparsities: Sequence[float]) -> None:
        self.pattern, self.sparsities = pattern, sparsities

    def masks(self, tower: Tower, number: int) -> dict[str, Tensor]:
        """Masks (bool, True = kept) of round `number`, counted from 0, inside those the tower has."""
        scores = magnitude({layer: tower.visual.get_submodule(layer).weight for layer in tower.masks})
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
        scores = magnitude({layer: tower.visual.get_submodule(layer).weight for layer in tower.masks})
        return [
            {layer: int(mask.sum()) for layer, mask in pattern(scores, sparsity).items()} for sparsity in sparsities
        ]
    manifest, rounds = like.manifest, like.rounds()
    same_rounds = rounds is None or max(int(array.max()) for array in rounds.values()) == len(sparsities)
    if abs(manifest.target_sparsity - sparsities[-1]) > 1e-9 or (not same_rounds) or manifest.base.digest != tower.base.digest:
        raise OptionError(
            f"not the twin of this run: {like.path} has another base, sparsity or number of rounds; "
            "repeat its options with --random"
        )
    if rounds is None:
        if len(sparsities) > 1:
            raise OptionError(f"no rounds recorded: {like.path} was pruned in one shot; leave --images out for its twin")
        return [{layer.name: layer.kept for layer in manifest.layers}]
    # A weight is there after round k if it was never pruned (0) or later.
    return [
        {layer: int(((array == 0) | (array > number)).sum()) for layer, array in rounds.items()}
        for number in range(1, len(sparsities) + 1)
    ]
