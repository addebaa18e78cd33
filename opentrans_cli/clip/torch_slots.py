"""Where the tensors of a file of torch.save lie in it, so that some can be changed without writing a pickle.

Such a file is a zip archive with one uncompressed record for every storage. Their bytes can be exchanged while the
pickle that describes them stays what it was, byte for byte; only checksums in the archive's own tables follow.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from opentrans_cli.clip.weight_file import load_object, refuse_torchscript, tensors_of
from opentrans_cli.errors import SourceError

# Of the zip format's two headers: flags, method and lengths of name and extra field; lengths of these and the comment.
_LOCAL, _CENTRAL = struct.Struct("<6xHH16xHH"), struct.Struct("<28xHHH12x")
_CENTRAL_CHECKSUM, _LOCAL_CHECKSUM = 16, 14
_DESCRIPTOR = b"PK\x07\x08"
_AGAIN = "load it and save it again with torch.save"


class Record(NamedTuple):
    """One storage in the archive, and where its checksum is written."""

    start: int
    end: int
    checksums: tuple[int, ...]  # places of 4 bytes


class StoredTensor(NamedTuple):
    """A tensor in the file, uncompressed and little-endian."""

    dtype: str  # torch's name without "torch."
    shape: tuple[int, ...]
    start: int  # of its first value, in bytes from the beginning of the file
    strides: tuple[int, ...]  # in values


class TorchSlots(NamedTuple):
    """The tensors of a file of torch.save."""

    slots: Mapping[str, StoredTensor]  # by name, wrappers taken off
    records: Sequence[Record]
    others: tuple[str, ...]  # entries beside the tensors at the top: "iteration", "optimizer"


def torch_slots(path: Path) -> TorchSlots:
    """Find the tensors of a file of torch.save (since torch 1.6), reading no value.

    Raises SourceError if the file is damaged, holds code, or holds tensors that are not plain.
    """
    refuse_torchscript(path)
    state = load_object(path, mapped=True)
    named = tensors_of(state)
    try:
        with path.open("rb") as file:
            records = list(_records(file, path))
    except (OSError, zipfile.BadZipFile, struct.error) as error:
        raise SourceError(f"cannot read the checkpoint: {path} ({error}); download or export it again") from error
    base = _base(list(_all_tensors(state)), records, path)
    slots = {name: _slot(name, tensor, base) for name, tensor in named.items()}
    held = {id(tensor) for tensor in named.values()}
    others = state.items() if isinstance(state, Mapping) else ()
    return TorchSlots(slots, records, tuple(str(key) for key, value in others if not _holds(value, held)))


def _slot(name: str, tensor: Tensor, base: int) -> StoredTensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise SourceError(f"no plain tensor in the checkpoint: '{name}' is {tensor.layout}; convert it first")
    dtype = str(tensor.dtype).removeprefix("torch.")
    start = tensor.data_ptr() - base if tensor.numel() else 0
    return StoredTensor(dtype, tuple(tensor.shape), start, tuple(tensor.stride()))


def _base(tensors: list[Tensor], records: list[Record], path: Path) -> int:
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
        raise SourceError(f"cannot tell where the tensors lie: {path}; {_AGAIN}")
    return found[0]


def _records(file: BinaryIO, path: Path) -> Iterator[Record]:
    with zipfile.ZipFile(file) as archive:
        entries, at = archive.infolist(), archive.start_dir
    for entry in entries:
        file.seek(at)
        central, lengths = at + _CENTRAL_CHECKSUM, _CENTRAL.unpack(file.read(_CENTRAL.size))
        at += _CENTRAL.size + sum(lengths)
        file.seek(entry.header_offset)
        flags, method, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        start = entry.header_offset + _LOCAL.size + name + extra
        end = start + entry.file_size
        if "/data/" not in entry.filename or not entry.file_size:
            continue
        if method != zipfile.ZIP_STORED:
            raise SourceError(f"compressed tensors in the checkpoint: {path}; {_AGAIN}")
        file.seek(end)
        after = end + 4 if file.read(4) == _DESCRIPTOR else end
        yield Record(start, end, (central, after if flags & 8 else entry.header_offset + _LOCAL_CHECKSUM))


def _all_tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor anywhere in a loaded file; a pickle can hold a list that contains itself."""
    waiting, seen = [value], set()
    while waiting:
        here = waiting.pop()
        if id(here) in seen:
            continue
        seen.add(id(here))
        if isinstance(here, Tensor):
            yield here
        elif isinstance(here, Mapping):
            waiting += here.values()
        elif isinstance(here, list | tuple | set):
            waiting += here


def _holds(value: Any, held: set[int]) -> bool:
    return any(id(tensor) in held for tensor in _all_tensors(value))
