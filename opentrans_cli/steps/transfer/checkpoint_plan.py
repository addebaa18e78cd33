"""What a transfer does to each tensor of a checkpoint: the rule, the verdict, and the new values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.checkpoints.edit import Edits
from opentrans_cli.checkpoints.reader import Checkpoint
from opentrans_cli.clip.key_tables import Found, Place, find_layers
from opentrans_cli.errors import OptionError, TransferError, did_you_mean
from opentrans_cli.files.slots import FLOATS, encoded
from opentrans_cli.steps.transfer.subnet import SubnetArrays

MASK, WEIGHTS = "mask", "weights"


@dataclass(frozen=True)
class Planned:
    """One tensor of the tower."""

    name: str
    shape: tuple[int, ...]
    layer: str | None  # None: nothing in it is pruned
    place: Place | None
    verdict: str  # "masked", "moved", "untouched"; or why not: "no place", "another shape", ...
    changes: bool


@dataclass(frozen=True)
class CheckpointPlan:
    """Where every tensor of the tower goes."""

    found: Found
    tensors: tuple[Planned, ...]
    allowed: frozenset[str]  # layers that may be missing

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Layers that have no place and were not allowed to be missing."""
        missing = (entry.layer for entry in self.tensors if entry.layer is not None and not entry.changes)
        return tuple(layer for layer in missing if layer not in self.allowed)

    def place(self, name: str) -> Place | None:
        """The place of a tensor of the tower; None if it has none, or is known to have another shape or type there."""
        entry = next((entry for entry in self.tensors if entry.name == name), None)
        if entry is None:  # a bundle that holds only masks knows only its layers
            return self.found.place(name)
        return entry.place if entry.verdict in ("masked", "moved", "untouched") else None

    def keys(self, subnet: SubnetArrays, checkpoint: Checkpoint) -> tuple[dict[str, Any], ...]:
        """The rows of the receipt."""
        return tuple(
            {
                "source": entry.name,
                "target": None if entry.place is None else checkpoint.tensors[entry.place.key].key,
                "rule": "none" if entry.place is None else entry.place.rule.text,
                "shape": list(entry.shape),
                "target_shape": None if entry.place is None else list(self.found.keys[entry.place.key]),
                "kept": None if entry.layer is None else int(np.count_nonzero(subnet.masks[entry.layer])),
                "verdict": f"{entry.verdict}, allowed" if entry.layer in self.allowed else entry.verdict,
            }
            for entry in self.tensors
        )


def plan_checkpoint(
    subnet: SubnetArrays,
    checkpoint: Checkpoint,
    *,
    what: str,
    to: str | None,
    under: str | None,
    allow_missing: Iterable[str],
) -> CheckpointPlan:
    """Find the tower in the checkpoint and decide what happens to each of its tensors.

    Raises TransferError if the tower is not found or found twice, OptionError for an unknown table or a pattern of
    `allow_missing` (globs for whole layer names) that matches no layer.
    """
    layers = {layer: mask.shape for layer, mask in subnet.masks.items()}
    patterns = tuple(allow_missing)
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            near = did_you_mean(pattern, layers)
            raise OptionError(f"no layer is called so: --allow-missing {pattern}; list them with --dry-run{near}")
    found = find_layers(layers, checkpoint.shapes, to=to, under=under)
    tensors = tuple(
        _planned(name, shape, found, checkpoint, what, name.removesuffix(".weight") if name in subnet.weights else None)
        for name, shape in subnet.shapes.items()
    )
    missing = {entry.layer for entry in tensors if entry.layer is not None and not entry.changes}
    allowed = {layer for layer in missing if layer and any(fnmatchcase(layer, pattern) for pattern in patterns)}
    return CheckpointPlan(found, tensors, frozenset(allowed))


def _planned(
    name: str, shape: tuple[int, ...], found: Found, checkpoint: Checkpoint, what: str, layer: str | None
) -> Planned:
    place = found.place(name)
    if place is None:
        return Planned(name, shape, layer, None, "no place", False)
    stored = checkpoint.tensors[place.key]
    if stored.shape != place.stored_shape(shape):
        return Planned(name, shape, layer, place, "another shape", False)
    counter = name.endswith("num_batches_tracked")
    if not stored.readable or (stored.dtype in FLOATS) == counter:
        return Planned(name, shape, layer, place, f"of type {stored.dtype}", False)
    if layer is None and what == MASK:
        return Planned(name, shape, None, place, "untouched", False)
    return Planned(name, shape, layer, place, "masked" if what == MASK else "moved", True)


def edits_of(plan: CheckpointPlan, subnet: SubnetArrays, checkpoint: Checkpoint) -> Edits:
    """The new values of every tensor that changes, by key; they are computed when they are needed."""
    by_key: dict[str, list[Planned]] = {}
    for entry in plan.tensors:
        if entry.changes and entry.place is not None:
            by_key.setdefault(entry.place.key, []).append(entry)
    return {key: _edit(entries, subnet, checkpoint.tensors[key].dtype) for key, entries in by_key.items()}


def _edit(entries: list[Planned], subnet: SubnetArrays, dtype: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def edit(stored: NDArray[Any]) -> NDArray[Any]:
        for entry in entries:
            assert entry.place is not None
            own = part(stored, entry.place)
            own[...] = new_values(entry, subnet, own, dtype)
        return stored

    return edit


def part(stored: NDArray[Any], place: Place) -> NDArray[Any]:
    """The tower's own tensor, a view of what the checkpoint stores at `place`."""
    rows = stored if place.third is None else stored[place.rows(stored.shape)]
    return rows.T if place.transposed else rows


def new_values(entry: Planned, subnet: SubnetArrays, own: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The new values of a tensor as stored: the target's own with pruned ones set to zero, or those of the subnet."""
    if entry.verdict == "masked":
        assert entry.layer is not None
        return np.where(subnet.masks[entry.layer], own, own.dtype.type(0))
    try:
        return encoded(subnet.value(entry.name), dtype)
    except OverflowError as error:
        raise TransferError(
            f"a value is too large for {dtype}, the type of the checkpoint: '{entry.name}'; "
            "give a float32 checkpoint, or use --what mask"
        ) from error
