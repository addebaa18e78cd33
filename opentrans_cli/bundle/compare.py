"""Compare two subnets: which weights both keep, and how much the values of these weights differ.

The overlap of masks is compared with chance: two independent random masks that keep a and b of n weights have a * b / n
in common on average, so their Jaccard index is far from zero unless both are sparse.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opentrans_cli.bundle.bitmask import Mask
from opentrans_cli.bundle.layout import MASK, WEIGHTS, check_finite, decode_mask, weight_name
from opentrans_cli.bundle.manifest import LayerEntry
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.files.tensorfile import OpenTensors


@dataclass(frozen=True)
class Overlap:
    """One layer, or several together, in two subnets A and B."""

    total: int  # weights
    kept_a: int
    kept_b: int
    both: int  # weights that both keep
    both_by_chance: float  # mean over independent random masks with these counts in every layer
    max_difference: float | None = None  # largest |value in A - value in B| of these; None: values were not compared
    differing: int | None = None  # how many of these have different values

    @property
    def jaccard(self) -> float:
        """Kept by both / kept by either, in [0, 1]; 1 if nothing is kept by either."""
        return _jaccard(self.both, self.kept_a, self.kept_b)

    @property
    def jaccard_by_chance(self) -> float:
        """The Jaccard index of random masks, from their mean overlap."""
        return _jaccard(self.both_by_chance, self.kept_a, self.kept_b)

    @property
    def share_differing(self) -> float | None:
        """The share of weights kept by both that differ in value, in [0, 1]; None: values were not compared."""
        return None if self.differing is None else self.differing / max(self.both, 1)


@dataclass(frozen=True)
class Comparison:
    """All layers of two subnets."""

    layers: dict[str, Overlap]  # in both with the same shape, in the order of A
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    other_shape: tuple[str, ...]  # in both, with different shapes

    @property
    def all_layers(self) -> Overlap:
        """The compared layers together."""
        return _together(self.layers.values())

    @property
    def nested(self) -> str | None:
        """How the masks are nested: "equal", "a_in_b" or "b_in_a" if one contains the other, or None."""
        a_in_b = all(layer.both == layer.kept_a for layer in self.layers.values())
        b_in_a = all(layer.both == layer.kept_b for layer in self.layers.values())
        return "equal" if a_in_b and b_in_a else "a_in_b" if a_in_b else "b_in_a" if b_in_a else None


def compare_subnets(a: Bundle, b: Bundle) -> Comparison:
    """Compare masks, and values if both bundles have weights, with one layer in memory at a time.

    Raises BundleError when a file is damaged or disagrees with its manifest.
    """
    entries_a = {layer.name: layer for layer in a.manifest.layers}
    entries_b = {layer.name: layer for layer in b.manifest.layers}
    shared = [name for name in entries_a if name in entries_b]
    same = [name for name in shared if entries_a[name].shape == entries_b[name].shape]
    masks = [bundle.tensors(MASK) for bundle in (a, b)]
    weights = [bundle.tensors(WEIGHTS) for bundle in (a, b)] if a.has(WEIGHTS) and b.has(WEIGHTS) else []
    layers = {name: _compare((entries_a[name], entries_b[name]), masks, weights) for name in same}
    return Comparison(
        layers=layers,
        only_a=tuple(name for name in entries_a if name not in entries_b),
        only_b=tuple(name for name in entries_b if name not in entries_a),
        other_shape=tuple(name for name in shared if name not in layers),
    )


def _compare(entries: tuple[LayerEntry, LayerEntry], masks: list[OpenTensors], weights: list[OpenTensors]) -> Overlap:
    mask_a, mask_b = (
        decode_mask(entry, reader.read(entry.name)).reshape(-1) for entry, reader in zip(entries, masks, strict=True)
    )
    a, b = entries
    both = mask_a & mask_b
    difference = _difference(a.name, (mask_a, mask_b), both, weights) if weights else (None, None)
    return Overlap(a.total, a.kept, b.kept, int(np.count_nonzero(both)), a.kept * b.kept / a.total, *difference)


def _difference(layer: str, masks: tuple[Mask, Mask], both: Mask, weights: list[OpenTensors]) -> tuple[float, int]:
    """Largest difference and number of differing values where `both`, flat like `masks`, is True."""
    shared = []
    for mask, reader in zip(masks, weights, strict=True):
        values = reader.read(weight_name(layer))
        check_finite(weight_name(layer), values, origin=str(Path(reader.path).parent))
        # Values are stored in mask order, so the positions among the kept weights tell which values are shared.
        shared.append(values[both[mask]].astype(np.float64))
    gaps = np.abs(shared[0] - shared[1])
    return float(gaps.max(initial=0.0)), int(np.count_nonzero(gaps))


def _together(layers: Iterable[Overlap]) -> Overlap:
    layers = list(layers)
    gaps = [layer.max_difference for layer in layers if layer.max_difference is not None]
    differing = [layer.differing for layer in layers if layer.differing is not None]
    return Overlap(
        total=sum(layer.total for layer in layers),
        kept_a=sum(layer.kept_a for layer in layers),
        kept_b=sum(layer.kept_b for layer in layers),
        both=sum(layer.both for layer in layers),
        both_by_chance=sum(layer.both_by_chance for layer in layers),
        max_difference=max(gaps, default=None),
        differing=sum(differing) if differing else None,
    )


def _jaccard(both: float, kept_a: int, kept_b: int) -> float:
    either = kept_a + kept_b - both
    return both / either if either else 1.0
