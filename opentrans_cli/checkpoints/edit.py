"""Somebody's checkpoint file: where its tensors are, and a copy of it with some of them changed.

In its own format the copy is the file itself, byte for byte, but for the changed tensors: no pickle is written, that of
a torch file is the one that was there. A torch file can become a safetensors file, which holds its tensors alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.checkpoints.file_kind import file_kind
from opentrans_cli.errors import SourceError, TransferError
from opentrans_cli.files.header import CODES, METADATA, item_bytes
from opentrans_cli.files.slots import (
    PIECE,
    Patch,
    Slot,
    c_order,
    checksum_patches,
    edit_slot,
    first_difference,
    patched,
    pieces,
    read_slot,
    safetensors_slots,
)

Edits = Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]]
"""By key: what becomes of the stored values (bfloat16 as its bits); a result of the same shape and type."""

SAFETENSORS = ".safetensors"
TORCH = (".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint that is read and never changed."""

    path: Path
    size: int  # bytes
    slots: Mapping[str, Slot]  # by key, wrappers such as `state_dict` taken off
    others: tuple[str, ...]  # entries beside the tensors: "optimizer", "iteration"
    records: Sequence[tuple[int, int, tuple[int, ...]]] | None = field(
        repr=False
    )  # of a torch file; None for safetensors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {key: slot.shape for key, slot in self.slots.items()}

    def copies_to(self, suffix: str) -> bool:
        """Whether a copy with this suffix keeps the format; else the tensors alone become a safetensors file.

        Raises TransferError for a suffix that no copy can have.
        """
        if self.records is None and suffix in TORCH:
            raise TransferError(
                f"no pickle is written: {suffix} from {self.path}, a safetensors file; name --out FILE.safetensors"
            )
        if suffix not in (SAFETENSORS, *TORCH):
            raise TransferError(f"unknown kind of checkpoint: --out with {suffix!r}; name it .safetensors or .pth")
        return (self.records is None) == (suffix == SAFETENSORS)


def open_checkpoint(path: Path) -> CheckpointFile:
    """Find the tensors of a safetensors file or one of torch.save; no value is read.

    Raises SourceError or BundleError if it cannot be read, is neither, or holds a type that safetensors does not.
    """
    kind = file_kind(path)
    size = path.stat().st_size
    if kind == "safetensors":
        with path.open("rb") as file:
            return _checked(CheckpointFile(path, size, safetensors_slots(file, size, str(path)), (), None))
    if kind == "zip":
        from opentrans_cli.checkpoints.torch_slots import torch_slots

        found = torch_slots(path)
        foreign = next((key for key, tensor in found.slots.items() if tensor.dtype not in CODES), None)
        if foreign is not None:
            raise SourceError(f"tensor of a type that is not read: '{foreign}' in {path}; convert it first")
        slots = {key: Slot(*tensor) for key, tensor in found.slots.items()}
        return _checked(CheckpointFile(path, size, slots, found.others, found.records))
    what = {"old torch": "a file of torch before 1.6", "json": "an index of shards"}.get(kind, kind)
    raise SourceError(f"not one checkpoint file but {what}: {path}; save its state dict as one safetensors file")


def _checked(checkpoint: CheckpointFile) -> CheckpointFile:
    if not checkpoint.slots:
        raise SourceError(f"no tensors in the checkpoint: {checkpoint.path}; give one with a state dict")
    return checkpoint


def check_apart(checkpoint: CheckpointFile, edits: Edits) -> None:
    """Raises TransferError if a tensor to be changed shares its bytes with another."""
    spans = sorted((slot.start, slot.end, key) for key, slot in checkpoint.slots.items() if slot.end > slot.start)
    reached, last = 0, ""
    for (_, end, key), (start, _, following) in pairwise(spans):
        if end > reached:
            reached, last = end, key
        if start < reached and (last in edits or following in edits):
            raise TransferError(
                f"two tensors of the checkpoint share their memory: '{last}' and '{following}'; "
                "save it again with each of them cloned"
            )


def copy_patches(checkpoint: CheckpointFile, edits: Edits, file: BinaryIO) -> list[Patch]:
    """What a copy in the same format has differently, checksums included; `file` is the checkpoint, open."""
    slots = checkpoint.slots
    patches = [edit_slot(slots[key], edit) for key, edit in edits.items() if slots[key].end > slots[key].start]
    return patches + checksum_patches(file, patches, checkpoint.records or ())


def copy_chunks(checkpoint: CheckpointFile, patches: Sequence[Patch], file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a copy in the same format."""
    yield from patched(file, patches, 0, checkpoint.size)


def converted_chunks(checkpoint: CheckpointFile, edits: Edits, file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a safetensors file with the tensors of the checkpoint."""
    order = list(CODES)
    keys = sorted(checkpoint.slots, key=lambda key: (order.index(checkpoint.slots[key].dtype), key))
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    reached = 0
    for key in keys:
        slot = checkpoint.slots[key]
        end = reached + item_bytes(slot.dtype) * int(np.prod(slot.shape, dtype=np.int64))
        header[key] = {"dtype": CODES[slot.dtype], "shape": list(slot.shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for key in keys:
        yield from _values(checkpoint, key, edits, file)


def check_written(
    checkpoint: CheckpointFile, edits: Edits, patches: Sequence[Patch] | None, path: Path
) -> CheckpointFile:
    """Read what was written: changed tensors are what they should be, and all others bit for bit what they were.

    patches: of a copy in the same format, None for another one. Returns the written file. Raises TransferError if not.
    """
    written = open_checkpoint(path)
    before = {key: (slot.dtype, slot.shape) for key, slot in checkpoint.slots.items()}
    if before != {key: (slot.dtype, slot.shape) for key, slot in written.slots.items()}:
        raise TransferError(f"the written file has other tensors: {path.name}; report this as a bug")
    with checkpoint.path.open("rb") as old, path.open("rb") as new:
        if patches is not None:
            place = first_difference(old, new, patches, checkpoint.size)
            if written.size != checkpoint.size or place is not None:
                raise TransferError(f"a byte outside the layers changed: near {place}; run the command again")
        for key in checkpoint.slots if patches is None else edits:
            theirs = _values(written, key, {}, new)
            if any(mine != other for mine, other in zip_longest(_values(checkpoint, key, edits, old), theirs)):
                raise TransferError(f"a tensor was not written as it should be: '{key}'; run the command again")
    return written


def file_digest(path: Path) -> str:
    """Hex sha256 of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        for piece in pieces(file, 0, path.stat().st_size):
            sha.update(piece)
    return sha.hexdigest()


def _values(checkpoint: CheckpointFile, key: str, edits: Edits, file: BinaryIO) -> Iterator[bytes]:
    """The values of a tensor in C order, in pieces: an embedding table can be a fifth of a file."""
    slot = checkpoint.slots[key]
    if key not in edits and slot.strides == c_order(slot.shape):
        yield from pieces(file, slot.start, slot.end)
        return
    data = _edited(checkpoint, key, edits, file).tobytes()
    yield from (data[start : start + PIECE] for start in range(0, len(data), PIECE))


def _edited(checkpoint: CheckpointFile, key: str, edits: Edits, file: BinaryIO) -> NDArray[Any]:
    stored = read_slot(file, checkpoint.slots[key])
    return edits[key](stored.copy()) if key in edits else stored
