"""A copy of a checkpoint file with some of its tensors changed.

In the same format the copy equals the file byte for byte except for the changed tensors. No pickle is written: that of
a torch file is copied. A checkpoint of any kind can also become one safetensors file, which holds only its tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.checkpoints.file_kind import OLD_TORCH, SAFETENSORS, TORCH
from opentrans_cli.checkpoints.reader import Checkpoint, open_checkpoint
from opentrans_cli.errors import TransferError
from opentrans_cli.files.header import CODES, METADATA, item_bytes
from opentrans_cli.files.slots import (
    PIECE,
    Patch,
    c_order,
    checksum_patches,
    edit_slot,
    first_difference,
    patched,
    pieces,
)

Edits = Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]]
"""By name: what becomes of the stored values (bfloat16 as its bits); a result of the same shape and type."""

_SAFETENSORS, _TORCH = ".safetensors", (".pth", ".pt", ".bin", ".ckpt")


def copies_to(checkpoint: Checkpoint, suffix: str) -> bool:
    """Whether a copy with this suffix keeps the format; otherwise only the tensors are written, as safetensors.

    Raises TransferError for a suffix that no copy can have, and for tensors that a safetensors file cannot hold.
    """
    of_torch = checkpoint.kind in (TORCH, OLD_TORCH)
    if suffix not in (_SAFETENSORS, *_TORCH):
        raise TransferError(f"unknown kind of checkpoint: --out with {suffix!r}; name it .safetensors or .pth")
    if suffix in _TORCH and not of_torch:
        raise TransferError(
            f"no pickle is written: {suffix} from {checkpoint.path}, {checkpoint.kind}; name --out FILE.safetensors"
        )
    if checkpoint.kind == SAFETENSORS or suffix in _TORCH:
        return True
    odd = next((name for name, t in checkpoint.tensors.items() if not t.readable or t.dtype not in CODES), None)
    if odd is not None:
        problem = checkpoint.tensors[odd].problem or f"of type {checkpoint.tensors[odd].dtype}"
        move = "name --out FILE.pth" if of_torch else "convert it first"
        raise TransferError(f"no safetensors file holds this tensor: '{odd}' is {problem}; {move}")
    return False


def check_apart(checkpoint: Checkpoint, edits: Edits) -> None:
    """Raises TransferError if a tensor to be changed shares its bytes with another."""
    held = [(str(t.source), t.slot, name) for name, t in checkpoint.tensors.items() if t.readable and 0 not in t.shape]
    spans = sorted((source, slot.start, slot.end, name) for source, slot, name in held)
    reached, last = 0, ""
    for (source, _, end, name), (following, start, _, other) in pairwise(spans):
        reached, last = (end, name) if end > reached else (reached, last)
        if following != source:
            reached = 0
        elif start < reached and (last in edits or other in edits):
            raise TransferError(
                f"two tensors of the checkpoint share their memory: '{last}' and '{other}'; "
                "save it again with each of them cloned"
            )


def copy_patches(checkpoint: Checkpoint, edits: Edits) -> list[Patch]:
    """The bytes that differ in a copy of the same format, checksums included.

    Raises TransferError for a tensor whose values are inside the pickle, as for arrays.
    """
    tensors = {name: checkpoint.tensors[name] for name in edits if 0 not in checkpoint.tensors[name].shape}
    inside = next((name for name, tensor in tensors.items() if tensor.source != checkpoint.path), None)
    if inside is not None:
        raise TransferError(
            f"no pickle is written, and one holds the values of '{inside}': {checkpoint.path}; name --out X.safetensors"
        )
    patches = [edit_slot(tensor.slot, edits[name]) for name, tensor in tensors.items()]
    with checkpoint.path.open("rb") as file:
        return patches + checksum_patches(file, patches, checkpoint.records)


def copy_chunks(checkpoint: Checkpoint, patches: Sequence[Patch]) -> Iterator[bytes]:
    """The bytes of a copy in the same format."""
    with checkpoint.path.open("rb") as file:
        yield from patched(file, patches, 0, checkpoint.path.stat().st_size)


def converted_chunks(checkpoint: Checkpoint, edits: Edits) -> Iterator[bytes]:
    """The bytes of a safetensors file with the tensors of the checkpoint, by their names in it."""
    order, tensors = list(CODES), checkpoint.tensors
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), tensors[name].key))
    header: dict[str, Any] = {METADATA: {"format": "pt"}}
    reached = 0
    for name in names:
        tensor = tensors[name]
        end = reached + item_bytes(tensor.dtype) * int(np.prod(tensor.shape, dtype=np.int64))
        entry = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [reached, end]}
        header[tensor.key] = entry
        reached = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield from _values(checkpoint, name, edits)


def check_written(checkpoint: Checkpoint, edits: Edits, patches: Sequence[Patch] | None, path: Path) -> Checkpoint:
    """Check the written file: changed tensors are as intended, and all others are the same bit for bit.

    patches: those of a copy in the same format; None for another format. Returns the written file. Raises TransferError
    if the check fails.
    """
    written = open_checkpoint(path)
    before, after = (
        {name: (tensor.key, tensor.dtype, tensor.shape) for name, tensor in opened.tensors.items()}
        for opened in (checkpoint, written)
    )
    if before != after:
        raise TransferError(f"the written file has other tensors: {path.name}; report this as a bug")
    if patches is not None:
        size = checkpoint.path.stat().st_size
        with checkpoint.path.open("rb") as old, path.open("rb") as new:
            place = first_difference(old, new, patches, size)
        if path.stat().st_size != size or place is not None:
            raise TransferError(f"a byte outside the layers changed: near {place}; run the command again")
    for name in checkpoint.tensors if patches is None else edits:
        pairs = zip_longest(_values(checkpoint, name, edits), _values(written, name, {}))
        if any(mine != theirs for mine, theirs in pairs):
            raise TransferError(f"a tensor was not written as it should be: '{name}'; run the command again")
    return written


def _values(checkpoint: Checkpoint, name: str, edits: Edits) -> Iterator[bytes]:
    """The values of a tensor in C order, in pieces, since an embedding table can be a fifth of a file."""
    tensor = checkpoint.tensors[name]
    if name not in edits and tensor.strides == c_order(tensor.shape) and isinstance(tensor.source, Path):
        with tensor.source.open("rb") as file:
            yield from pieces(file, tensor.slot.start, tensor.slot.end)
        return
    stored = checkpoint.array(name)
    data = (edits[name](stored) if name in edits else stored).tobytes()
    yield from (data[start : start + PIECE] for start in range(0, len(data), PIECE))
