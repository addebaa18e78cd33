"""Which weights a round keeps: by a criterion, or at random with the same counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from opentrans_cli.bundle.rounds import recorded_counts
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.control import random_control_masks, random_scores
from opentrans_cli.sparsity.criteria import CRITERIA
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence
from opentrans_cli.sparsity.patterns.base import Pattern
from opentrans_cli.sparsity.selection import Computed, Mask, Scores
from opentrans_cli.steps.prune.options import PruneOptions
from opentrans_cli.steps.sources import Tower

if TYPE_CHECKING:
    from torch import Tensor

    from opentrans_cli.steps.prune.loader import ImageLoader
    from opentrans_cli.training.processes.distributed import World

Masks = dict[str, Mask]


class Choice(Protocol):
    """Chooses the masks of each round, one round after another."""

    def masks(self, tower: Tower, number: int) -> Masks:
        """Masks (True = kept) of round `number`, counted from 0; they keep nothing that the tower's masks remove."""


class Scorer:
    """Scores of a tower's weights by the run's criterion."""

    def __init__(self, options: PruneOptions, *, loader: ImageLoader | None = None, world: World | None = None) -> None:
        """world: the processes that share the images of `loader`. Raises OptionError for an unknown criterion, or for
        one that needs images if there are none.
        """
        name = options.resolved_criterion
        self.criterion: Criterion = CRITERIA.load(name)
        if self.criterion.needs_images and loader is None:
            raise OptionError(f"criterion needs images: {name}; add --images, or choose magnitude")
        self.options, self.loader, self.world = options, loader, world

    def scores(self, tower: Tower, number: int) -> Scores:
        """Scores by layer for round `number`: each round uses the same images with new random probes."""
        layers = tuple(tower.masks)
        if not self.criterion.needs_images:
            return self.criterion.score(Evidence(None, layers, state=tower.tensors()))
        found = self.criterion.score(self._with_images(tower, layers, number))
        return Computed(layers, lambda layer: found[layer].detach().cpu().numpy())

    def _with_images(self, tower: Tower, layers: tuple[str, ...], number: int) -> Evidence:
        import torch.nn.functional as F

        visual, loader, options = tower.visual, self.loader, self.options
        assert loader is not None and self.world is not None

        def readout(images: Tensor) -> Tensor:
            return F.normalize(visual(images).float(), dim=-1)[:, None]

        return Evidence(
            visual,
            layers,
            readout,
            lambda: loader.scoring(options.score_images, seed=options.seed),
            seed=options.seed * 1009 + number,
            probes=options.probes,
            total=self.world.total,
        )

    def agreed(self, masks: Masks) -> Masks:
        """The masks of the first process, sent to all processes."""
        if self.world is None or self.world.size == 1:
            return masks
        from opentrans_cli.clip.layers import arrays, tensors

        return arrays(self.world.agree(tensors(masks)))


class ScoredChoice:
    """Removes the weights that are least important in the tower as it is when the round begins."""

    def __init__(self, scorer: Scorer, pattern: Pattern, sparsities: Sequence[float]) -> None:
        self.scorer, self.pattern, self.sparsities = scorer, pattern, sparsities

    def masks(self, tower: Tower, number: int) -> Masks:
        """See Choice."""
        scores = self.scorer.scores(tower, number)
        return self.scorer.agreed(self.pattern.masks(scores, self.sparsities[number], inside=tower.masks))


class RandomChoice:
    """Nested random masks, chosen once for all rounds."""

    def __init__(self, rounds: Sequence[Masks], like: Bundle | None) -> None:
        """like: the bundle whose counts the masks have."""
        self.rounds, self.like = rounds, like

    def masks(self, tower: Tower, number: int) -> Masks:
        """See Choice."""
        return self.rounds[number]


def random_choice(
    tower: Tower, sparsities: Sequence[float], *, pattern: Pattern, scorer: Scorer, like: Bundle | None
) -> RandomChoice:
    """Random positions of the pattern's form, as many in every layer and round as pruning `tower` would keep.

    The counts are those of the bundle `like`, round by round; without one, those of the criterion's scores of the tower
    as it is. Raises OptionError if `like` was pruned by another schedule.
    """
    shapes = {layer: tuple(mask.shape) for layer, mask in tower.masks.items()}
    seed = scorer.options.seed
    if like is None:
        wanted = _scored_counts(tower, sparsities, pattern, scorer)
    else:
        wanted = _recorded_counts(tower, like, rounds=len(sparsities), target=scorer.options.sparsity)
    drawn = random_scores(shapes, seed)
    # Patterns of a fixed form give these counts for any scores; a global pattern gives them only if it is told them.
    if _counts(pattern.masks(drawn, sparsities[-1])) == wanted[-1]:
        return RandomChoice([pattern.masks(drawn, sparsity) for sparsity in sparsities], like)
    return RandomChoice(random_control_masks(wanted, shapes, seed), like)


def _counts(masks: Mapping[str, Mask]) -> dict[str, int]:
    return {layer: int(mask.sum()) for layer, mask in masks.items()}


def _scored_counts(tower: Tower, sparsities: Sequence[float], pattern: Pattern, scorer: Scorer) -> list[dict[str, int]]:
    scores = scorer.scores(tower, 0)
    return [_counts(pattern.masks(scores, sparsity)) for sparsity in sparsities]


def _recorded_counts(tower: Tower, like: Bundle, *, rounds: int, target: float) -> list[dict[str, int]]:
    manifest, recorded = like.manifest, recorded_counts(like.manifest)
    same_run = manifest.base.digest == tower.base.digest and abs(manifest.target_sparsity - target) < 1e-9
    if not same_run or recorded is None or len(recorded) != rounds or recorded[0].keys() != tower.masks.keys():
        raise OptionError(
            f"not the run this control is of: {like.path} has another base, sparsity or number of rounds; "
            "repeat the options it was made with, and add --random"
        )
    return recorded
