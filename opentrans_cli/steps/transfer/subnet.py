"""A bundle's subnet as arrays, one tensor per layer, without torch if the bundle holds what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.bitmask import Mask
from opentrans_cli.bundle.layout import WEIGHTS, weight_name
from opentrans_cli.bundle.rounds import at_round, find_round
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import OptionError
from opentrans_cli.reporter import Reporter

_PACKED_BIAS = "in_proj_bias"
_PARTS = ("q_proj.bias", "k_proj.bias", "v_proj.bias")


@dataclass(frozen=True)
class SubnetArrays:
    """Masks, and values if they were asked for."""

    masks: Mapping[str, Mask]  # by layer
    shapes: Mapping[str, tuple[int, ...]]  # of every known tensor; packed biases as their three parts
    tower: Mapping[str, NDArray[Any]] | None  # None: only masks

    @cached_property
    def weights(self) -> frozenset[str]:
        """The tensors of the layers."""
        return frozenset(weight_name(layer) for layer in self.masks)

    def value(self, name: str) -> NDArray[Any]:
        """A tensor of the tower; floating-point ones are float32, with exact zeros where they are pruned."""
        assert self.tower is not None
        if name in self.tower:
            return self.tower[name]
        owner, part = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        packed = self.tower[f"{owner}.{_PACKED_BIAS}"]
        each = len(packed) // 3
        return packed[_PARTS.index(part) * each :][:each]


def load_subnet(
    bundle: Bundle, *, values: bool, at_sparsity: float | None, base: str | None, reporter: Reporter
) -> SubnetArrays:
    """The masks of a bundle, at an earlier round with `at_sparsity`, and with `values` its whole tower.

    Masks need only the bundle. Values that it does not hold come from its base, or from `base` if the base has moved.
    Raises OptionError if there is no such round or `base` is not needed, BundleError or SourceError.
    """
    if not values:
        if base is not None:
            raise OptionError(f"masks need no base: --base {base}; leave it out, or pass --what weights")
        view = bundle if at_sparsity is None else at_round(bundle, find_round(bundle, at_sparsity))
        headers = bundle.tensor_headers(WEIGHTS) if bundle.has(WEIGHTS) else {}
        masks = view.masks()
        others = {name: header.shape for name, header in headers.items()}
        return SubnetArrays(masks, _shapes(masks, others), None)
    view = _with_values(bundle, at_sparsity, base, reporter)
    masks, tower = view.masks(), view.tower()
    return SubnetArrays(masks, _shapes(masks, {name: value.shape for name, value in tower.items()}), tower)


def _with_values(bundle: Bundle, at_sparsity: float | None, base: str | None, reporter: Reporter) -> Bundle:
    if at_sparsity is None and base is None and bundle.has(WEIGHTS):
        return bundle
    from opentrans_cli.steps.sources import took_base, tower_at_sparsity

    tower = tower_at_sparsity(bundle, at_sparsity, base=base, reporter=reporter)
    if base is not None and not took_base(tower):
        raise OptionError(f"the bundle has all its weights: {bundle.path}; leave --base out")
    assert tower.bundle is not None
    return tower.bundle


def _shapes(masks: Mapping[str, Mask], others: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, layers first in their order. A bundle packs their values, so the masks give the shapes."""
    shapes: dict[str, tuple[int, ...]] = {weight_name(layer): tuple(mask.shape) for layer, mask in masks.items()}
    for name, shape in others.items():
        if name.endswith(f".{_PACKED_BIAS}"):
            owner = name.removesuffix(_PACKED_BIAS)
            shapes |= {f"{owner}{part}": (int(np.prod(shape)) // 3,) for part in _PARTS}
        else:
            shapes.setdefault(name, tuple(shape))
    return shapes
