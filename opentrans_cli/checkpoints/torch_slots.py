"""Where the tensors of a file of torch.save lie in it, so that some can be changed without writing a pickle.

Such a file is a zip archive with one uncompressed record for every storage. Their bytes can be exchanged while the
pickle that describes them stays what it was, byte for byte; only checksums in the archive's own tables follow. The
usual pickle is read as data, without torch, which would take up more memory than most checkpoints.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from opentrans_cli.checkpoints.file_kind import refuse_torchscript
from opentrans_cli.checkpoints.pickle_reader import Described, UnknownPickle, read_pickle
from opentrans_cli.checkpoints.state_names import all_leaves, entries_beside, named_leaves
from opentrans_cli.checkpoints.weight_file import load_object, tensors_of
from opentrans_cli.errors import SourceError

# Where the tensors of a file of torch.save lie, asked of torch: for files whose pickle holds more than the usual.


def mapped_slots(path: Path, records: Sequence[Record]) -> TorchSlots:
    """Load the file mapped and weights-only, and see where its tensors point. Raises SourceError."""
    state: Any = load_object(path, mapped=True)
    named = tensors_of(state)
    base = _base(list(all_leaves(state, Tensor)), records, path)
    slots = {name: _mapped_slot(name, tensor, base) for name, tensor in named.items()}
    return TorchSlots(slots, records, entries_beside(state, named, Tensor))


def _mapped_slot(name: str, tensor: Tensor, base: int) -> StoredTensor:
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


AGAIN = "load it and save it again with torch.save"

# Of the zip format's two headers: flags, method and lengths of name and extra field; lengths of these and the comment.
_LOCAL, _CENTRAL = struct.Struct("<6xHH16xHH"), struct.Struct("<28xHHH12x")
_CENTRAL_CHECKSUM, _LOCAL_CHECKSUM = 16, 14
_DESCRIPTOR = b"PK\x07\x08"
_MAX_PICKLE = 32 << 20  # bytes; FC-CLIP's has 0.1 MB
_WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2}


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
    try:
        with path.open("rb") as file:
            records = dict(_records(file, path))
        text = _pickle(path)
    except (OSError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, struct.error) as error:
        raise SourceError(f"cannot read the checkpoint: {path} ({error}); download or export it again") from error
    try:
        return _described(text, records)
    except UnknownPickle:
        from opentrans_cli.checkpoints.torch_slots import mapped_slots

        return mapped_slots(path, list(records.values()))


def _described(text: bytes, records: Mapping[str, Record]) -> TorchSlots:
    state = read_pickle(text)
    named = named_leaves(state, Described)
    slots = {name: _slot(tensor, records) for name, tensor in named.items()}
    return TorchSlots(slots, list(records.values()), entries_beside(state, named, Described))


def _slot(tensor: Described, records: Mapping[str, Record]) -> StoredTensor:
    if not prod(tensor.shape):
        return StoredTensor(tensor.dtype, tensor.shape, 0, tensor.strides)
    record, width = records.get(tensor.record), _WIDTHS.get(tensor.dtype, 1)
    last = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True))
    if record is None or record.start + (tensor.offset + last + 1) * width > record.end:
        raise UnknownPickle("a tensor outside its storage")
    return StoredTensor(tensor.dtype, tensor.shape, record.start + tensor.offset * width, tensor.strides)


def _pickle(path: Path) -> bytes:
    """The pickle of an archive; b"" for one that is too large, or written on a machine of other byte order."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        order = next((name for name in names if name.endswith("/byteorder")), None)
        name = next((name for name in names if name.endswith("/data.pkl")), None)
        if name is None or (order is not None and archive.read(order) != b"little"):
            return b""
        return archive.read(name) if archive.getinfo(name).file_size <= _MAX_PICKLE else b""


def _records(file: BinaryIO, path: Path) -> Iterator[tuple[str, Record]]:
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
        folder, _, key = entry.filename.rpartition("/data/")
        if not folder or not entry.file_size:
            continue
        if method != zipfile.ZIP_STORED:
            raise SourceError(f"compressed tensors in the checkpoint: {path}; {AGAIN}")
        file.seek(end)
        after = end + 4 if file.read(4) == _DESCRIPTOR else end
        yield key, Record(start, end, (central, after if flags & 8 else entry.header_offset + _LOCAL_CHECKSUM))
