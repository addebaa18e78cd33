"""The tower of an earlier round: every sparsity a pruning run passed through, from one bundle."""

from __future__ import annotations

from opentrans_cli.bundle.layout import Tensors
from opentrans_cli.bundle.rounds import BundleAtRound, RoundInfo, at_round, available, find_round
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.reporter import SILENT, Reporter
from opentrans_cli.steps.sources import Tower, base_tower, bundle_tower

__all__ = ["RoundInfo", "at_sparsity", "available", "dense_tower", "took_base", "tower_at"]


def at_sparsity(
    bundle: Bundle, sparsity: float | None, *, base: str | None = None, reporter: Reporter = SILENT
) -> Tower:
    """The tower `bundle` had at `sparsity`, to within 0.0005; None: as it is.

    Its `bundle` is that of this round: masks, sparsity and tensors, with the digest of the one it was read from.
    Values come from the bundle, or from the base (its own source, or `base` where that has moved) if nothing was
    trained. Raises OptionError, naming the sparsities there are, if there is no such round or only its masks.
    """
    if sparsity is None:
        return bundle_tower(bundle, base=base, reporter=reporter)
    info = find_round(bundle, sparsity)
    return tower_at(bundle, info, target=sparsity, dense=dense_tower(bundle, (info,), base, reporter))


def took_base(tower: Tower) -> bool:
    """Whether the values of a bundle's tower were taken from its base, because the bundle does not hold them."""
    return isinstance(tower.bundle, BundleAtRound) and tower.bundle.base is not None


def tower_at(bundle: Bundle, info: RoundInfo, *, target: float | None = None, dense: Tensors | None = None) -> Tower:
    """The tower after the round `info`; `dense` as `dense_tower` gives it.

    target: the sparsity asked for, that of the round if left out. Raises OptionError if only its masks are there.
    """
    if not info.has_weights:
        raise OptionError(
            f"only the masks of this round are there, and its weights were trained further: sparsity "
            f"{info.sparsity:.4f} of {bundle.path}; prune again with --keep-rounds weights"
        )
    return bundle_tower(at_round(bundle, info, target=target, base=dense if info.weights == "base" else None))


def dense_tower(bundle: Bundle, rounds: tuple[RoundInfo, ...], base: str | None, reporter: Reporter) -> Tensors | None:
    """The base's tensors, a tensor a layer, if the values of one of `rounds` come from there. Raises SourceError."""
    if any(info.weights == "base" for info in rounds):
        return base_tower(bundle, base, reporter)
    return None
