"""The sparsities that a pruning run reached in its rounds, and the bundle as it was after one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.bitmask import Mask
from opentrans_cli.bundle.layout import Tensors, masked_base
from opentrans_cli.bundle.manifest import Manifest, Step
from opentrans_cli.bundle.nested import kept_after, last_round, masks_after, rounds_until
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError, OptionError
from opentrans_cli.files.header import item_bytes
from opentrans_cli.files.tensorfile import OpenTensors

KEPT_BY_ROUND = "kept_by_round"
"""Metric of a prune step: layer -> weights kept after each round."""

NEAR = 5e-4
"""How far from a round's sparsity the one asked for may be."""

_NO_TRAINING = ("analyze", "transfer", "eval", "push", "pull")


@dataclass(frozen=True)
class RoundInfo:
    """One round of a bundle, with the sparsity that it reached."""

    round: int  # from 1
    sparsity: float  # removed / total, exact
    kept: int
    total: int
    weights: str | None  # where its kept values are: "bundle", "base", or None if it has only masks
    last: bool  # True for the bundle as it is

    @property
    def has_weights(self) -> bool:
        """Whether the whole tower is available, not only its masks."""
        return self.weights is not None


def available(bundle: Bundle) -> tuple[RoundInfo, ...]:
    """The rounds whose masks a bundle has, in order, the last included.

    They come from the manifest and a header if the prune step records its counts, else from `rounds.safetensors`.
    """
    manifest = bundle.manifest
    counts = [sum(kept.values()) for kept in _counts(bundle)]
    saved = bundle.saved_rounds()
    origin = "base" if not bundle.has(layout.WEIGHTS) or untrained(manifest.steps) else None
    found = []
    for number, kept in enumerate(counts, start=1):
        last = number == len(counts)
        if kept == manifest.kept and not last:
            continue  # this round has the same sparsity as the last one
        inside = bundle.has(layout.WEIGHTS) if last else number in saved
        sparsity = 1 - kept / manifest.total
        found.append(RoundInfo(number, sparsity, kept, manifest.total, "bundle" if inside else origin, last))
    return tuple(found)


def find_round(bundle: Bundle, sparsity: float) -> RoundInfo:
    """The round nearest to `sparsity`. Raises OptionError, listing the rounds, if none is within 0.0005."""
    rounds = available(bundle)
    nearest = min(rounds, key=lambda info: abs(info.sparsity - sparsity))
    if abs(nearest.sparsity - sparsity) <= NEAR:
        return nearest
    there = ", ".join(f"{info.sparsity:.4f}".rstrip("0").rstrip(".") for info in rounds)
    move = (
        f"choose one of {there}"
        if len(rounds) > 1
        else f"it has {there} alone, prune with --keep-rounds masks for more"
    )
    raise OptionError(f"no round has this sparsity: {sparsity:g} in {bundle.path}; {move}")


def untrained(steps: tuple[Step, ...]) -> bool:
    """Whether the weights were only pruned and never trained, so that the kept ones equal those of the base."""
    prunes = [step for step in steps if step.verb == "prune"]
    others = [step for step in steps if step.verb not in ("prune", *_NO_TRAINING)]
    return bool(prunes) and not others and not any(_distilled(step) for step in prunes)


def _distilled(step: Step) -> bool:
    # Without distillation, images are only used to measure weights; a step that records neither may have trained.
    return step.options.get("distill") != "none" and step.options.get("images", "unknown") is not None


def subnet_bytes(bundle: Bundle, info: RoundInfo) -> int:
    """Bytes of the tensors in a bundle of only this round: packed mask, kept values, and the rest of the tower.

    Headers, manifest and reports are not counted. Only the manifest and a header are read.
    """
    manifest = bundle.manifest
    masks = sum((layer.total + 7) // 8 for layer in manifest.layers)
    if not bundle.has(layout.WEIGHTS):
        return masks
    layers = {layout.weight_name(layer.name) for layer in manifest.layers}
    headers = bundle.tensor_headers(layout.WEIGHTS)
    rest = sum(prod(found.shape) * item_bytes(found.dtype) for name, found in headers.items() if name not in layers)
    return masks + info.kept * item_bytes(manifest.layers[0].dtype) + rest


def at_round(bundle: Bundle, info: RoundInfo, *, target: float | None = None, base: Tensors | None = None) -> Bundle:
    """The bundle as if its run had ended with the round `info`, read from the same files.

    target: the requested sparsity; by default that of the round. base: the dense tower that was pruned, one tensor per
    layer, if the values come from it; the caller has checked its digest. Raises BundleError when manifest and rounds
    disagree.
    """
    if info.last:
        return bundle if base is None else with_base(bundle, base)
    rounds = bundle.rounds()
    if rounds is None:
        raise BundleError(f"bundle has no rounds: {str(bundle.path)!r}; prune again with --keep-rounds masks")
    kept = {layer: int(np.count_nonzero(mask)) for layer, mask in masks_after(rounds, info.round).items()}
    if sum(kept.values()) != info.kept:
        raise BundleError(
            f"rounds and manifest disagree: round {info.round} of {str(bundle.path)!r} keeps {sum(kept.values())} "
            f"weights, recorded are {info.kept}; write or download the bundle again"
        )
    manifest = replace(
        bundle.manifest,
        target_sparsity=info.sparsity if target is None else target,
        achieved_sparsity=info.sparsity,
        layers=tuple(replace(layer, kept=kept[layer.name]) for layer in bundle.manifest.layers),
    )
    return BundleAtRound(bundle.path, manifest, parent=bundle, number=info.round, base=base)


def with_base(bundle: Bundle, base: Tensors) -> Bundle:
    """A mask-only bundle with the values of `base`, the dense tower it was pruned from, one tensor per layer."""
    return BundleAtRound(bundle.path, bundle.manifest, parent=bundle, number=None, base=base)


@dataclass(frozen=True)
class BundleAtRound(Bundle):
    """A view of `parent` after an earlier round, or after the last round with values from the base.

    Digest and files are those of the parent, since these files are read.
    """

    parent: Bundle
    number: int | None  # None: the last round
    base: Tensors | None

    def has(self, name: str) -> bool:
        """Whether the file exists; weights also count if they come from the base."""
        return self.parent.has(name) or (name == layout.WEIGHTS and self.base is not None)

    def tensors(self, name: str) -> OpenTensors:
        """See Bundle."""
        return self.parent.tensors(name)

    def masks(self) -> dict[str, Mask]:
        """See Bundle."""
        if self.number is None:
            return self.parent.masks()
        return masks_after(self.parent.rounds() or {}, self.number)

    def tower(self) -> dict[str, NDArray[Any]]:
        """See Bundle. Values from the base are rounded to the bundle's dtype, as if they had been stored."""
        if self.base is not None:
            return masked_base(self.base, self.masks(), self.manifest.layers[0].dtype)
        return self.parent.tower() if self.number is None else self.parent.round_tower(self.number)

    def rounds(self) -> dict[str, NDArray[np.uint8]] | None:
        """See Bundle."""
        rounds = self.parent.rounds()
        return rounds if rounds is None or self.number is None else rounds_until(rounds, self.number)

    def head(self) -> dict[str, NDArray[Any]] | None:
        """See Bundle."""
        return self.parent.head()

    def alpha(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """See Bundle; an earlier tower has other spectra."""
        return self.parent.alpha() if self.number is None else None


def _counts(bundle: Bundle) -> list[dict[str, int]]:
    """By round: kept weights by layer; the last entry is the bundle's own."""
    own = {layer.name: layer.kept for layer in bundle.manifest.layers}
    if not bundle.has(layout.ROUNDS):
        return [own]
    recorded = recorded_counts(bundle.manifest)
    if recorded is not None:
        return recorded
    rounds = bundle.rounds() or {}
    end = max(1, last_round(rounds))
    kept = kept_after(rounds, end)
    return [{layer: counts[number] for layer, counts in kept.items()} for number in range(end)]


def recorded_counts(manifest: Manifest) -> list[dict[str, int]] | None:
    """The rounds recorded by the last prune step, up to the bundle's own; None if they do not fit the bundle."""
    own = {layer.name: layer.kept for layer in manifest.layers}
    step = next((step for step in reversed(manifest.steps) if step.verb == "prune"), None)
    metric = step.metrics.get(KEPT_BY_ROUND) if step else None
    if not isinstance(metric, Mapping) or set(metric) != set(own):
        return None
    lists, totals = list(metric.values()), {layer.name: layer.total for layer in manifest.layers}
    for layer, counts in metric.items():
        if not isinstance(counts, list) or not all(type(kept) is int and 0 <= kept <= totals[layer] for kept in counts):
            return None
    if len({len(counts) for counts in lists}) != 1:
        return None
    rounds = [{layer: metric[layer][number] for layer in own} for number in range(len(lists[0]))]
    ends = [number for number, kept in enumerate(rounds, start=1) if kept == own]
    nested = all(kept[layer] >= after[layer] for kept, after in pairwise(rounds) for layer in own)
    return rounds[: ends[-1]] if ends and nested else None
