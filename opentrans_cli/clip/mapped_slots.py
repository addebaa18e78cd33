"""Where the tensors of a file of torch.save lie, asked of torch: for files whose pickle holds more than the usual."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opentrans_cli.clip.state_names import all_leaves, entries_beside
from opentrans_cli.clip.torch_slots import AGAIN, Record, StoredTensor, TorchSlots
from opentrans_cli.clip.weight_file import load_object, tensors_of
from opentrans_cli.errors import SourceError


def mapped_slots(path: Path, records: Sequence[Record]) -> TorchSlots:
    """Load the file mapped and weights-only, and see where its tensors point. Raises SourceError."""
    state: Any = load_object(path, mapped=True)
    named = tensors_of(state)
    base = _base(list(all_leaves(state, Tensor)), records, path)
    slots = {name: _slot(name, tensor, base) for name, tensor in named.items()}
    return TorchSlots(slots, records, entries_beside(state, named, Tensor))


def _slot(name: str, tensor: Tensor, base: int) -> StoredTensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise SourceError(f"no plain tensor in the checkpoint: '{name}' is {tensor.layout}; convert it first")
    dtype = str(tensor.dtype).removeprefix("torch.")
    start = tensor.data_ptr() - base if tensor.numel() else 0
    return StoredTensor(dtype, tuple(tensor.shape), start, tuple(tensor.stride()))


def _base(tensors: list[Tensor], records: Sequence[Record], path: Path) -> int:
    """The address of the file's first byte in the memory it is mapped to."""
    plain = [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]
    storages = {(storage.data_ptr(), storage.nbytes()) for storage in plain if storage.nbytes()}
    places = {(record.start, record.end - record.start) for record in records}
    if not storages:
        return 0
    address, size = min(storages)
    # Torch gives views of one mapping and does not say where it begins: where every view begins with a record.
    found = [
        base
        for start, length in places
        if length == size
        and (base := address - start) % mmap.PAGESIZE == 0
        and all((other - base, length) in places for other, length in storages)
    ]
    if len(found) != 1:
        raise SourceError(f"cannot tell where the tensors lie: {path}; {AGAIN}")
    return found[0]
