"""The reader of all checkpoint files: it finds the kind of a file and its named tensors, without reading values.

The content of a file, not its suffix, tells its kind:

    safetensors            its header says where each tensor lies
    index of shards        the JSON of a checkpoint in several files (`*.index.json`), which lie beside it
    torch, since 1.6       a zip archive; a TorchScript archive is one as well, and its code is ignored
    torch, older           several pickles, and after them the values of all tensors
    a plain pickle         of arrays, as detectron2's model zoo has them, or of tensors

Pickles are read as data, see `pickle_data.py`. Torch is not loaded, and only the requested part of a tensor is read.
NaN and infinite values are accepted here: the code that uses a weight checks for them.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.checkpoints.file_kind import AGAIN, OLD_TORCH, SAFETENSORS, SHARDS, TORCH, file_kind
from opentrans_cli.checkpoints.pickle_data import Described, read_old, read_pickle
from opentrans_cli.checkpoints.state_names import FoundState, find_state, plain_names
from opentrans_cli.errors import BundleError, SourceError
from opentrans_cli.files.digest import file_sha256
from opentrans_cli.files.header import item_bytes
from opentrans_cli.files.regular import open_regular
from opentrans_cli.files.slots import FLOATS, Slot, decoded, read_slot, safetensors_slots

if TYPE_CHECKING:
    from torch import Tensor

NOT_FLOATING = "not floating point"
SCALES = ("weight_scale", "weight_scale_inv")
"""Last parts of the names of scales, which say that the weight beside them is quantised; see `quantised.py`."""

_FLOATS = (*FLOATS, "float8_e4m3fn", "float8_e5m2")
_WHOLE = ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
_MAX_INDEX = 32 << 20  # bytes; the largest published ones have 0.2 MB

# Fields of the zip format's two headers: flags, method, lengths of name and extra field; these lengths and comment's.
_LOCAL, _CENTRAL = struct.Struct("<6xHH16xHH"), struct.Struct("<28xHHH12x")
_CENTRAL_CHECKSUM, _LOCAL_CHECKSUM = 16, 14
_DESCRIPTOR = b"PK\x07\x08"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint, and where its values are."""

    shape: tuple[int, ...]
    dtype: str = "float32"  # torch's name without "torch.", which is numpy's where numpy has the type
    problem: str | None = None  # why it cannot be a weight: NOT_FLOATING, or why it cannot be read
    key: str = ""  # its name in the file
    source: Path | bytes = field(default=b"", repr=False)  # the file with its values, or bytes with them
    start: int = 0  # of its first value, in bytes
    strides: tuple[int, ...] = ()  # in values

    @property
    def slot(self) -> Slot:
        """The tensor's place in the source."""
        return Slot(self.dtype, self.shape, self.start, self.strides)

    @property
    def readable(self) -> bool:
        """Whether the tensor has values that can be read."""
        return self.problem in (None, NOT_FLOATING)


class StorageRecord(NamedTuple):
    """One storage in an archive, and where its checksum is written."""

    start: int
    end: int
    checksums: tuple[int, ...] = ()  # places of 4 bytes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are read on demand; several threads may read at once."""

    path: Path
    kind: str  # a constant of file_kind.py
    tensors: Mapping[str, StoredTensor]  # by name without wrappers, in module order
    beside: tuple[str, ...] = ()  # entries that were left out: "optimizer", "iteration"
    masks: Mapping[str, StoredTensor] = field(default_factory=dict)  # of a dict beside the weights: "X_mask" for "X"
    note: str | None = None  # which of several sets of weights was taken; a step reports it
    records: Sequence[StorageRecord] = field(default=(), repr=False)  # of an archive
    stamps: Mapping[Path, tuple[int, ...]] = field(default_factory=dict, repr=False)  # of its files when it was opened

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def sha256(self) -> str:
        """Hex SHA-256 of the file; of an index of shards, over the index and all shards it names. Raises OSError."""
        own, shards = file_sha256(self.path), sorted(path for path in self.stamps if path != self.path)
        lines = [own, *(f"{path.name} {file_sha256(path)}" for path in shards)]
        return sha256("\n".join(lines).encode()).hexdigest() if shards else own

    def array(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """A tensor, or some of its rows, as stored; types unknown to numpy are given as bits (bfloat16: uint16).

        The caller may change the array. Raises SourceError if its values cannot be read, or the file changed.
        """
        tensor = self.tensors[name]
        if not tensor.readable:
            raise SourceError(f"tensor is {tensor.problem}: '{name}' in {self.path}; convert it first")
        slot = tensor.slot
        if rows is not None:
            start, stop, _ = rows.indices(slot.shape[0])
            before = start * slot.strides[0] * item_bytes(slot.dtype)
            slot = slot._replace(shape=(max(0, stop - start), *slot.shape[1:]), start=slot.start + before)
        if isinstance(tensor.source, bytes):
            return read_slot(io.BytesIO(tensor.source), slot)
        try:
            with open_regular(tensor.source) as file:
                if _stamp(file) != self.stamps[tensor.source]:
                    raise SourceError(
                        f"the checkpoint changed while it was read: {tensor.source}; run the command again"
                    )
                return read_slot(file, slot)
        except OSError as error:
            raise _unreadable(tensor.source, error) from error

    def numbers(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """The same as `array`, but floats as float32 or float64, whatever type they are stored in."""
        dtype = self.tensors[name].dtype
        if dtype in FLOATS or hasattr(np, dtype):
            return decoded(self.array(name, rows), dtype)
        return self.read(name, rows).float().numpy()  # a type that only torch has, such as float8

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """The same as `array`, but as a torch tensor on the CPU in its own type."""
        import torch

        array = self.array(name, rows)
        dtype: torch.dtype = getattr(torch, self.tensors[name].dtype)
        tensor = torch.from_numpy(array)
        return tensor if tensor.dtype == dtype else tensor.view(dtype)

    def check_plain(self) -> None:
        """Raises SourceError if a weight is only right together with the scales beside it."""
        scale = next((name for name in self.tensors if name.rpartition(".")[2] in SCALES and self._needed(name)), None)
        if scale is not None:
            raise SourceError(
                f"weights are quantised, with scales beside them: '{scale}' in {self.path}; "
                "save the model in floating point first"
            )

    def _needed(self, scale: str) -> bool:
        module, dot, _ = scale.rpartition(".")
        weight = self.tensors.get(f"{module}{dot}weight")
        return weight is None or weight.dtype not in FLOATS  # else it is an ordinary weight, quantised only in training

    def finite(self, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """All tensors, or only `names`. Raises SourceError for NaN and infinite values, and for quantised weights."""
        self.check_plain()
        tensors = {name: self.read(name) for name in (self.tensors if names is None else names)}
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.float().isfinite().all():
                raise SourceError(
                    f"tensor holds NaN or infinite values: '{name}' in {self.path}; repair or replace the checkpoint"
                )
        return tensors


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint of any kind, and find its tensors.

    Raises SourceError if the file is missing, cut off, not a checkpoint, or without tensors; the message says what the
    file is and what to do next.
    """
    kind = file_kind(path)
    opened = _open_index(path) if kind == SHARDS else _open_single(path, kind)
    if not opened.tensors:
        raise SourceError(
            f"no tensors in the checkpoint: {path}; give a state dict saved with safetensors or torch.save"
        )
    names = plain_names([*opened.tensors, *opened.masks])
    tensors, masks = (
        {name: part[key] for name, key in names.items() if key in part} for part in (opened.tensors, opened.masks)
    )
    return replace(opened, tensors=tensors, masks=masks)


def _open_single(path: Path, kind: str) -> Checkpoint:
    """The checkpoint in one file, with the names in it."""
    try:
        with open_regular(path) as file:
            stamps = {path: _stamp(file)}
            if kind == SAFETENSORS:
                slots = safetensors_slots(file, str(path))
                tensors = {key: _in_file(key, slots[key], path) for key in sorted(slots, key=natural)}
                return Checkpoint(path, kind, tensors, stamps=stamps)
            if kind == TORCH:
                content, records = _archive(file, path)
            elif kind == OLD_TORCH:
                content, places = read_old(file)
                records = {name: StorageRecord(*place) for name, place in places.items()}
            else:
                content, records = read_pickle(file), {}
            found = find_state(content)
            size = os.fstat(file.fileno()).st_size
            tensors, masks = (
                {key: _placed(key, tensor, records, path, size) for key, tensor in part.items()}
                for part in (found.tensors, found.masks)
            )
    except SourceError:
        raise
    except BundleError as error:
        raise _unreadable(path, str(error).split(", ", 1)[-1].split("; ")[0]) from error
    except Exception as error:  # a damaged archive or pickle can end in any of a dozen classes
        raise _unreadable(path, error) from error
    return Checkpoint(path, kind, tensors, found.beside, masks, _note(path, found), list(records.values()), stamps)


def _note(path: Path, found: FoundState) -> str | None:
    if not found.others:
        return None
    others = ", ".join(f"'{other}'" for other in found.others)
    return f"{path}: weights are taken from '{found.taken}', not from {others} beside it"


def _in_file(key: str, slot: Slot, path: Path) -> StoredTensor:
    return StoredTensor(slot.shape, slot.dtype, _problem(slot.dtype), key, path, slot.start, slot.strides)


def _placed(key: str, tensor: Described, records: Mapping[str, StorageRecord], path: Path, size: int) -> StoredTensor:
    """A tensor of a pickle; raises ValueError if it reaches past the end of its storage or of the file."""
    problem, storage = tensor.problem or _problem(tensor.dtype), tensor.storage
    if storage is None or problem not in (None, NOT_FLOATING):
        return StoredTensor(tensor.shape, tensor.dtype, problem, key)
    if 0 in tensor.shape:
        return StoredTensor(tensor.shape, tensor.dtype, problem, key, b"", 0, tensor.strides)
    source: Path | bytes = path if storage.data is None else storage.data
    record = records[storage.record] if storage.data is None else StorageRecord(0, len(storage.data))
    start = record.start + (storage.skipped + tensor.offset) * item_bytes(tensor.dtype)
    stored = StoredTensor(tensor.shape, tensor.dtype, problem, key, source, start, tensor.strides)
    if stored.slot.end > record.end or (source == path and record.end > size):
        raise ValueError(f"a tensor outside its storage: '{key}'")
    return stored


def _problem(dtype: str) -> str | None:
    if dtype in _FLOATS:
        return None
    return NOT_FLOATING if dtype in _WHOLE else f"of type {dtype}"


def _open_index(path: Path) -> Checkpoint:
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ValueError("too large")
        places = json.loads(path.read_bytes())["weight_map"]
        shards = sorted(set(places.values()))
        wrong = next((name for name in shards if Path(name).name != name or name in ("", "..") or "\\" in name), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"JSON, but no index of shards with a weight_map: {path}; give a checkpoint, or the index beside its shards"
        ) from error
    if wrong is not None:
        raise SourceError(f"the index names a shard that is not beside it: '{wrong}' in {path}; edit its weight_map")
    opened = {}
    for name in shards:
        shard, kind = path.parent / name, file_kind(path.parent / name)
        if kind == SHARDS:
            raise SourceError(f"the index names another index: '{name}' in {path}; edit its weight_map")
        opened[name] = _open_single(shard, kind)
    for key, name in places.items():
        if key not in opened[name].tensors:
            raise SourceError(f"the index names a tensor its shard lacks: '{key}' in {name}; download both again")
    tensors = {key: opened[places[key]].tensors[key] for key in sorted(places, key=natural)}
    stamps = {file: stamp for shard in opened.values() for file, stamp in shard.stamps.items()}
    return Checkpoint(path, SHARDS, tensors, stamps=stamps)


def _archive(file: BinaryIO, path: Path) -> tuple[Any, dict[str, StorageRecord]]:
    """The content of the pickle in an archive, and its storages by name."""
    with zipfile.ZipFile(file) as archive:
        text = next((entry for entry in archive.infolist() if entry.filename.split("/")[-1] == "data.pkl"), None)
        if text is None:
            raise SourceError(f"not a checkpoint but a zip archive: {path}; unpack it and give the checkpoint inside")
        if text.compress_type != zipfile.ZIP_STORED:
            raise _compressed(path)
        folder = text.filename.removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise SourceError(
                f"written on a machine of another byte order: {path}; save its state dict again on this one"
            )
        records = dict(_records(file, archive, f"{folder}data/", path))
        with archive.open(text) as pickled:
            return read_pickle(pickled), records  # type: ignore[arg-type]


def _records(file: BinaryIO, archive: zipfile.ZipFile, folder: str, path: Path) -> Iterator[tuple[str, StorageRecord]]:
    at = archive.start_dir
    for entry in archive.infolist():
        file.seek(at)
        central, lengths = at + _CENTRAL_CHECKSUM, _CENTRAL.unpack(file.read(_CENTRAL.size))
        at += _CENTRAL.size + sum(lengths)
        file.seek(entry.header_offset)
        flags, method, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
        start = entry.header_offset + _LOCAL.size + name + extra
        end = start + entry.file_size
        if not entry.filename.startswith(folder) or not entry.file_size:
            continue
        if method != zipfile.ZIP_STORED:
            raise _compressed(path)
        file.seek(end)
        after = end + 4 if file.read(4) == _DESCRIPTOR else end
        checksums = (central, after if flags & 8 else entry.header_offset + _LOCAL_CHECKSUM)
        yield entry.filename.removeprefix(folder), StorageRecord(start, end, checksums)


def _compressed(path: Path) -> SourceError:
    return SourceError(f"compressed tensors in the checkpoint: {path}; load it and save it again with torch.save")


def _stamp(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def natural(key: str) -> list[tuple[int, str]]:
    """Sort key that puts block 2 before block 10: safetensors does not keep the order of modules."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in key.split(".")]


def _unreadable(path: Path, error: object) -> SourceError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return SourceError(f"cannot read the checkpoint: {path} ({reason}); {AGAIN}")
