"""Sparse patches: how a set of tensors differs from another, as flat indices and values in one safetensors file.

    NAME.indices   int32 (n,)   ascending flat positions in C order; int64 for a tensor of 2^31 values or more
    NAME.values    (n,)         what is put there, in the dtype of the tensor; values, not differences

Tensors that do not differ are left out. These are the fields of vLLM's `CheckpointWeightPatch` (vLLM 0.33; it also asks
for the shape, which stands in our metadata) and the layout of TRL's first weight patches over a Hub bucket (TRL pull
request 5417, after Miahi & Belilovsky, "PULSE", arXiv 2602.03839), whose metadata keys are used as far as they mean
something here. A tensor differs where its bits do, so that a patched base is the other set bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import TransferError
from opentrans_cli.files.atomic import Written, cannot_write, write_file
from opentrans_cli.files.tensorfile import open_tensors, tensor_chunks

Tensors = Mapping[str, NDArray[Any]]
INDICES, VALUES = ".indices", ".values"
FORMAT, VERSION = "sparse_weight_patch", "1"


@dataclass(frozen=True)
class SparsePatch:
    """What differs from a base."""

    tensors: dict[str, tuple[NDArray[Any], NDArray[Any]]]  # name -> (indices, values), both flat
    shapes: dict[str, tuple[int, ...]]  # of the tensors that differ
    total: int  # values of all tensors, whether they differ or not

    @property
    def changed(self) -> int:
        """Number of values that differ."""
        return sum(len(values) for _, values in self.tensors.values())


def sparse_patch(base: Tensors, wanted: Tensors) -> SparsePatch:
    """The patch that makes `wanted` of `base`. Raises TransferError unless both have the same names, shapes, dtypes."""
    if odd := sorted(set(base) ^ set(wanted)):
        raise TransferError(f"tensor is not on both sides of the patch: {odd[0]!r}; use the base of this bundle")
    tensors, shapes = {}, {}
    for name, new in wanted.items():
        old = base[name]
        if old.shape != new.shape or old.dtype != new.dtype:
            raise TransferError(
                f"tensor differs in kind: {name!r} is {old.dtype} {old.shape} in the base, {new.dtype} {new.shape} "
                "here; use the base of this bundle"
            )
        places = np.flatnonzero(_bits(old) != _bits(new))
        if len(places):
            kind = np.int32 if new.size < 2**31 else np.int64
            tensors[name] = places.astype(kind), np.ascontiguousarray(new).reshape(-1)[places]
            shapes[name] = new.shape
    return SparsePatch(tensors, shapes, sum(array.size for array in wanted.values()))


def write_sparse_patch(path: Path, patch: SparsePatch, *, base_source: str, facts: Mapping[str, Any]) -> Written:
    """Write the file; `base_source` says where the base comes from, `facts` are JSON values for readers of ours.

    The same patch gives the same bytes. Raises BundleError if writing fails.
    """
    shared = 1 - patch.changed / max(patch.total, 1)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "encoding": "raw",  # of the indices
        "base_model_id": base_source,
        "changed_params": json.dumps(sorted(patch.tensors)),
        "num_changed_params": str(len(patch.tensors)),
        "total_changed_elements": str(patch.changed),
        "total_elements": str(patch.total),
        "sparsity": repr(shared),  # the share of values that stay
    }
    arrays = {
        name + end: array
        for name, pair in patch.tensors.items()
        for end, array in zip((INDICES, VALUES), pair, strict=True)
    }
    shapes = {name: list(shape) for name, shape in patch.shapes.items()}
    try:
        return write_file(path, tensor_chunks(arrays, {**facts, "shapes": shapes}, beside=metadata))
    except OSError as error:
        raise cannot_write(path, error) from error


def apply_sparse_patch(base: Tensors, path: Path) -> dict[str, NDArray[Any]]:
    """`base` with the patch in the file `path`; tensors that it does not name are those of `base`, not copied.

    Raises BundleError for a damaged file, TransferError for a patch that does not fit the base.
    """
    file = open_tensors(path)
    if file.head.metadata.get("format") != FORMAT:
        raise TransferError(f"not a sparse patch: {str(path)!r}; write one with `opentrans transfer --to patch`")
    patched = dict(base)
    names = file.head.headers()
    for name in [key.removesuffix(INDICES) for key in names if key.endswith(INDICES)]:
        if name not in base or name + VALUES not in names:
            raise TransferError(f"patch does not fit: {name!r} of {str(path)!r} has no counterpart; use its own base")
        indices, values = file.read(name + INDICES), file.read(name + VALUES)
        flat = np.array(base[name], order="C").reshape(-1)
        inside = indices.ndim == 1 and indices.shape == values.shape and values.dtype == flat.dtype
        if not inside or (len(indices) and not (indices.min() >= 0 and indices.max() < flat.size)):
            raise TransferError(f"patch does not fit: {name!r} of {str(path)!r} is of another kind; use its own base")
        flat[indices] = values
        patched[name] = flat.reshape(base[name].shape)
    return patched


def differing(one: Tensors, other: Tensors) -> Iterator[str]:
    """Names of tensors that are not the same bit by bit."""
    for name in sorted(set(one) | set(other)):
        if name not in one or name not in other or not _same(one[name], other[name]):
            yield name


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and np.array_equal(_bits(one), _bits(other))


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """The values as unsigned integers, flat: -0.0 is not 0.0, and a NaN is itself."""
    return np.ascontiguousarray(array).reshape(-1).view(f"u{array.dtype.itemsize}")
