"""Checkpoint files whose tensors are read one at a time, without building a model.

What a file is, its content says and not its suffix:

    safetensors               one tensor, or some rows of one, is read from the disk at a time
    index of shards           the JSON of a checkpoint in several files (`*.index.json`), which lie beside it
    torch, since 1.6 (zip)    mapped into memory: only what is read takes up room
    torch, older (pickle)     read whole, there is no other way

Foreign pickles are read weights-only. NaN and infinite values are let through; whoever reads a weight finds them.
"""

from __future__ import annotations

import json
import pickle
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import safetensors
import torch
from torch import Tensor

from opentrans_cli.checkpoints.file_kind import file_kind, refuse_torchscript
from opentrans_cli.checkpoints.state_names import named_leaves
from opentrans_cli.errors import SourceError

NOT_FLOATING = "not floating point"
_NEXT = "give a state dict saved with safetensors or torch.save"
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # safetensors codes of what a spectrum can be taken of
_MAX_INDEX = 32 << 20  # bytes; the largest published ones have 0.2 MB
# Pages of a mapped file that were read count as memory in use until it is mapped anew.
_MAPPED_AT_ONCE = 64 << 20  # bytes


class Header(NamedTuple):
    """What a file says about one tensor without its values."""

    shape: tuple[int, ...]
    problem: str | None = None  # why it can be no weight: NOT_FLOATING, ...


class WeightFile(Protocol):
    """An open checkpoint; several threads may read at once."""

    headers: Mapping[str, Header]  # by name in the file, wrappers taken off, in module order

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        """One tensor, or some of its rows, in its stored dtype on the CPU. Raises SourceError."""

    def close(self) -> None:
        """Let go of what is held in memory; reading again takes it up again."""


def open_weight_file(path: Path) -> WeightFile:
    """Open a checkpoint and read its headers.

    Raises SourceError if the file is missing, cut off, no checkpoint, holds no tensors, or holds code.
    """
    opened = _open_index(path) if file_kind(path) == "json" else _open_single(path)
    if not opened.headers:
        raise SourceError(f"no tensors in the checkpoint: {path}; {_NEXT}")
    return opened


def _open_single(path: Path) -> WeightFile:
    content = file_kind(path)
    if content == "safetensors":
        return _Safetensors(path)
    if content == "zip":
        refuse_torchscript(path)
    elif content != "old torch":
        raise SourceError(f"not a checkpoint but {content}: {path}; {_NEXT}")
    return _Torch(path, mapped=content == "zip")


class _Safetensors:
    """Opened anew for every tensor, which takes a millisecond: no handle stays open and threads share nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as file:
            views = {key: file.get_slice(key) for key in sorted(file.keys(), key=_natural)}
            self.headers: Mapping[str, Header] = {
                key: _stored(view.get_shape(), view.get_dtype()) for key, view in views.items()
            }

    def _open(self) -> Any:
        try:
            return safetensors.safe_open(str(self._path), framework="pt")
        except (safetensors.SafetensorError, OSError) as error:
            raise _unreadable(self._path, error) from error

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        with self._open() as file:
            try:
                tensor: Tensor = file.get_tensor(key) if rows is None else file.get_slice(key)[rows]
            except (safetensors.SafetensorError, OSError) as error:
                raise _unreadable(self._path, error) from error
        return tensor

    def close(self) -> None:
        pass


class _Torch:
    """A file of torch.save, mapped where its format allows."""

    def __init__(self, path: Path, *, mapped: bool) -> None:
        self._path, self._mapped = path, mapped
        self._lock, self._touched = threading.Lock(), 0
        self._tensors: dict[str, Tensor] | None = _load_torch(path, mapped=mapped)
        self.headers: Mapping[str, Header] = {key: _held(tensor) for key, tensor in self._tensors.items()}

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        with self._lock:
            if self._tensors is None or (self._mapped and self._touched > _MAPPED_AT_ONCE):
                self._tensors, self._touched = None, 0
                self._tensors = _load_torch(self._path, mapped=self._mapped)
            tensor = self._tensors.get(key)
            if tensor is None or tuple(tensor.shape) != self.headers[key].shape:
                raise SourceError(f"the checkpoint changed while it was read: {self._path}; run the command again")
            self._touched += tensor.nbytes
        return tensor.detach() if rows is None else tensor.detach()[rows]

    def close(self) -> None:
        with self._lock:
            self._tensors = None


class _Shards:
    """The files of one checkpoint under one table of names."""

    def __init__(self, files: Mapping[str, WeightFile]) -> None:
        self._files = files
        self.headers: Mapping[str, Header] = {key: files[key].headers[key] for key in sorted(files, key=_natural)}

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        return self._files[key].read(key, rows)

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _open_index(path: Path) -> WeightFile:
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ValueError("too large")
        places = json.loads(path.read_bytes())["weight_map"]
        shards = sorted(set(places.values()))
        wrong = next((name for name in shards if Path(name).name != name or name in ("", "..") or "\\" in name), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"JSON, but no index of shards with a weight_map: {path}; {_NEXT}") from error
    if wrong is not None:
        raise SourceError(f"the index names a shard that is not beside it: '{wrong}' in {path}; edit its weight_map")
    opened = {name: _open_single(path.parent / name) for name in shards}
    for key, name in places.items():
        if key not in opened[name].headers:
            raise SourceError(f"the index names a tensor its shard lacks: '{key}' in {name}; download both again")
    return _Shards({key: opened[name] for key, name in places.items()})


def _load_torch(path: Path, *, mapped: bool) -> dict[str, Tensor]:
    return tensors_of(load_object(path, mapped=mapped))


def load_object(path: Path, *, mapped: bool) -> Any:
    """What torch.save wrote, read weights-only; its tensors are views of the file where that is `mapped`.

    Raises SourceError for a damaged file and one that holds more than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises half a dozen classes here
        code = re.search(r"(?i)unsupported (?:global|class|operand)\S* (?:GLOBAL )?(\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise SourceError(
                f"refused, it holds more than tensors ({code[1]}): {path}; save its state_dict() alone"
            ) from error
        raise _unreadable(path, error) from error


def tensors_of(state: Any) -> dict[str, Tensor]:
    """The tensors of a loaded checkpoint by name, see `named_leaves`."""
    return named_leaves(state, Tensor)


def _stored(shape: list[int], code: str) -> Header:
    if code in _FLOATS:
        return Header(tuple(shape))
    return Header(tuple(shape), NOT_FLOATING if code[0] in "IUB" else f"of type {code}")


def _held(tensor: Tensor) -> Header:
    problem = None
    if not tensor.is_floating_point():
        problem = NOT_FLOATING
    elif tensor.layout != torch.strided:
        problem = "sparse storage"
    elif tensor.is_meta:
        problem = "without values"
    return Header(tuple(tensor.shape), problem)


def _natural(key: str) -> list[tuple[int, str]]:
    """Sort key that puts block 2 before block 10: safetensors does not keep the order of modules."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in key.split(".")]


def _unreadable(path: Path, error: Exception) -> SourceError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return SourceError(f"cannot read the checkpoint: {path} ({reason}); download or export it again")
