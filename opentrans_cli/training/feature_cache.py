"""Features of a frozen prefix on disk: each crop goes through the prefix once in the life of the folder.

The features of a crop are a function of the crop alone: they are computed one crop at a time in float32, and so do not
depend on its batch, the number of processes, or interruptions of a run. There are three files:

    features.bin   entry by entry, each the tensors of `clip.prefix.outputs` one after the other, float32, channels last
    index.bin      8 bytes per entry: whether it exists, and its CRC32
    cache.json     what the features depend on, written first

Files are read and written at offsets: with a memory map, a full disk would kill the process instead of raising an
error. Several processes may share the folder: an entry is written before its index line, and two processes that write
the same entry write the same bytes.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.clip.prefix import block_of, blocks_until, modules_until, outputs
from opentrans_cli.errors import BundleError, OptionError, TrainingError
from opentrans_cli.files.atomic import locked, write_file
from opentrans_cli.files.records import expect_keys, json_bytes, parse_json
from opentrans_cli.training.freezing import state_hash

FEATURES, INDEX, IDENTITY = "features.bin", "index.bin", "cache.json"

_ENTRY = struct.Struct("<II")  # _THERE, CRC32; zeros where the file has never been written
_THERE = 1
_FLOAT = np.dtype("<f4")
_SHAPING = (nn.Conv2d, nn.AvgPool2d)  # strides and dilations affect the features but are not tensors


class FeatureCache:
    """The features of `rows` crops of `crop` x `crop` pixels after the block `end` of the tower `backbone`.

    backbone: on `device`, its prefix frozen; it is read only here, and may be wrapped or sharded afterwards.
    identity: what the pixels of a row depend on, as JSON values. A folder is used again if its identity and prefix
    tensors are equal. Raises OptionError if the folder holds other features or other files, or if the disk lacks the
    space for all rows, TrainingError if it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        backbone: nn.Module,
        end: str,
        *,
        crop: int,
        rows: int,
        identity: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.folder, self.rows = folder, rows
        self._end, self._device = end, device
        self._backbone = _prefix_alone(backbone, end).eval()
        self._shapes = tuple(tuple(x.shape[1:]) for x in self._compute(torch.zeros(1, 3, crop, crop)))
        self.entry_bytes = sum(_FLOAT.itemsize * torch.Size(shape).numel() for shape in self._shapes)
        self.hits = 0  # rows this process has read
        self.misses = 0  # rows this process has computed
        with self._disk_errors_explained():
            self._open({**self._facts(), "crop": crop, "rows": rows, "pixels": dict(identity)})

    @property
    def needed_bytes(self) -> int:
        """Disk space for all rows, in bytes."""
        return self.rows * (self.entry_bytes + _ENTRY.size)

    @property
    def computed(self) -> int:
        """Number of rows that are filled, by any process."""
        with self._disk_errors_explained():
            stored = os.pread(self._index, self.rows * _ENTRY.size, 0)
        return sum(there == _THERE for there, _ in _ENTRY.iter_unpack(stored[: len(stored) // 8 * 8]))

    def features(self, images: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the prefix for a batch, each (B, C, h, w), float32, on the device, channels last.

        images: normalised (B, 3, crop, crop); rows: int (B,), 0 to `rows` - 1. An image is used only if its row
        is not filled yet. Raises TrainingError if the disk fails, for example because it is full.
        """
        entries = [self._entry(images[place : place + 1], row) for place, row in enumerate(rows.tolist())]
        found, start = [], 0
        for channels, height, width in self._shapes:
            size = _FLOAT.itemsize * channels * height * width
            stacked = np.stack([np.frombuffer(entry, _FLOAT, size // _FLOAT.itemsize, start) for entry in entries])
            last = torch.from_numpy(stacked.astype(np.float32, copy=False)).view(-1, height, width, channels)
            found.append(last.permute(0, 3, 1, 2).to(self._device))
            start += size
        return tuple(found)

    def close(self) -> None:
        """Close the files; their content stays."""
        for descriptor in (self._features, self._index):
            os.close(descriptor)

    def __enter__(self) -> FeatureCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _entry(self, image: Tensor, row: int) -> bytes:
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        with self._disk_errors_explained():
            stored = self._read(row)
        if stored is not None:
            self.hits += 1
            return stored
        maps = self._compute(image)
        entry = b"".join(x[0].permute(1, 2, 0).contiguous().cpu().numpy().astype(_FLOAT).tobytes() for x in maps)
        with self._disk_errors_explained():
            _write_all(self._features, entry, row * self.entry_bytes)
            _write_all(self._index, _ENTRY.pack(_THERE, zlib.crc32(entry)), row * _ENTRY.size)
        self.misses += 1
        return entry

    def _read(self, row: int) -> bytes | None:
        """Return the bytes of a row; None if it is missing or damaged, so that it is computed again."""
        line = os.pread(self._index, _ENTRY.size, row * _ENTRY.size)
        if len(line) < _ENTRY.size or _ENTRY.unpack(line)[0] != _THERE:
            return None
        entry = os.pread(self._features, self.entry_bytes, row * self.entry_bytes)
        whole = len(entry) == self.entry_bytes and zlib.crc32(entry) == _ENTRY.unpack(line)[1]
        return entry if whole else None

    @torch.no_grad()
    def _compute(self, image: Tensor) -> tuple[Tensor, ...]:
        # Features are float32 whatever the precision of the training is.
        with torch.autocast(self._device.type, enabled=False):
            return outputs(self._backbone, image.to(self._device, torch.float32), self._end)

    def _facts(self) -> dict[str, Any]:
        """Return what the features depend on besides the pixels."""
        inside = set(blocks_until(self._backbone, self._end))
        shaping = [
            f"{name}: {part.extra_repr()}"
            for name, part in self._backbone.named_modules()
            if isinstance(part, _SHAPING) and block_of(name) in inside
        ]
        return {
            "end": self._end,
            "prefix": state_hash(self._backbone, modules_until(self._backbone, self._end)),
            "shaping": hashlib.sha256("\n".join(shaping).encode()).hexdigest(),
            "shapes": [list(shape) for shape in self._shapes],
            "dtype": "float32",
            "device": self._device.type,  # on another kind of device the same convolution gives other bits
        }

    def _open(self, facts: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):  # all processes of a run reach this at the same time
            self._claim(facts)
            self._check_space()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._features = os.open(self.folder / FEATURES, flags, 0o666)
        self._index = os.open(self.folder / INDEX, flags, 0o666)

    def _claim(self, facts: dict[str, Any]) -> None:
        path = self.folder / IDENTITY
        facts = json.loads(json_bytes(facts))  # JSON stores tuples as lists
        if not path.exists():
            if any(not name.startswith(".") for name in os.listdir(self.folder)):
                raise OptionError(f"not a cache of features: {str(self.folder)!r} has other files; name a new folder")
            write_file(path, [json_bytes(facts)])
            return
        try:
            there = parse_json(path.read_bytes(), IDENTITY)
            expect_keys(there, facts, IDENTITY)
        except BundleError as error:
            raise OptionError(f"not a cache of features of this version: {str(path)!r}; name a new folder") from error
        odd = [key for key, value in facts.items() if there[key] != value]
        if odd:
            raise OptionError(
                f"the cache holds the features of another run: {str(self.folder)!r} differs in {', '.join(odd)}; "
                "remove it or name a new folder"
            )

    def _check_space(self) -> None:
        there = sum(_allocated(self.folder / name) for name in (FEATURES, INDEX))
        missing, free = self.needed_bytes - there, shutil.disk_usage(self.folder).free
        if missing > free:
            raise OptionError(
                f"the features of {self.rows} crops need {missing / 1e9:.2f} GB more: {free / 1e9:.2f} GB are free in "
                f"{str(self.folder)!r}; use fewer views, an earlier end of the prefix, or another disk"
            )

    @contextmanager
    def _disk_errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot keep the features: {str(self.folder)!r}, {error.strerror or error}; "
                "check free space and permissions, then go on with --resume"
            ) from error


def remove_cache(folder: Path) -> None:
    """Remove a folder of features, what they depend on last: an end in between leaves a cache with fewer rows."""
    for name in (FEATURES, INDEX, IDENTITY):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _prefix_alone(backbone: nn.Module, end: str) -> nn.Module:
    """A copy of the tower that shares the prefix's tensors and has no others.

    The tower's modules may later be sharded, or replaced by cached features: each process can still compute features by
    itself, and no weight is stored twice.
    """
    inside = {id(backbone.get_submodule(name)) for name in modules_until(backbone, end)}
    shared: dict[int, Any] = {}
    for part in backbone.modules():
        for tensor in filter(lambda found: found is not None, (*part._parameters.values(), *part._buffers.values())):
            shared[id(tensor)] = tensor if id(part) in inside else None
    return copy.deepcopy(backbone, shared)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:  # a disk that becomes full writes a part and refuses the rest
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _allocated(path: Path) -> int:
    """Bytes the file uses on the disk, which may be fewer than its length: missing rows are holes."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, getattr(found, "st_blocks", 0) * 512)
