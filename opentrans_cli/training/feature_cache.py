"""Features of a frozen prefix on disk: each crop goes through the prefix once in the life of the folder.

What is stored of a crop is a function of the crop alone, computed by itself in float32, so that it does not depend on
which batch it came in, how many processes there are, or where a run was interrupted. Three files:

    features.bin   entry by entry, each the tensors of `clip.prefix.outputs` one after the other, float32, channels last
    index.bin      8 bytes an entry: whether it is there, and its CRC32
    cache.json     what the features depend on, written first

Plain reads and writes at offsets: with a memory map, a full disk would kill the process instead of raising an error.
Several processes may share the folder: an entry's bytes come before its line in the index, and two that write the same
entry write the same bytes.
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
_SHAPING = (nn.Conv2d, nn.AvgPool2d)  # strides and dilations decide the features without being tensors


class FeatureCache:
    """The features of `rows` crops of `crop` x `crop` pixels after the block `end` of the tower `backbone`.

    backbone: on `device`, its prefix frozen; it is looked at only here, and may be wrapped or sharded afterwards.
    identity: what the pixels of a row depend on, as JSON values; with the prefix's tensors it decides whether a folder
    is this one's. A folder with equal ones is gone on with. Raises OptionError if the folder belongs to other features
    or other things, or if the disk has not the space that all rows need, TrainingError if it cannot be written.
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
        """What all rows take on the disk."""
        return self.rows * (self.entry_bytes + _ENTRY.size)

    @property
    def computed(self) -> int:
        """Rows that are filled, by whichever process."""
        with self._disk_errors_explained():
            stored = os.pread(self._index, self.rows * _ENTRY.size, 0)
        return sum(there == _THERE for there, _ in _ENTRY.iter_unpack(stored[: len(stored) // 8 * 8]))

    def features(self, images: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the prefix for a batch, each (B, C, h, w), float32, on the device, channels last.

        images: normalised (B, 3, crop, crop); rows: int (B,), 0 to `rows` - 1. Images are only looked at where the row
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
        """Let go of the files; what is in them stays."""
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
        """The bytes of a row; None if it is not there, or torn: then it is computed again."""
        line = os.pread(self._index, _ENTRY.size, row * _ENTRY.size)
        if len(line) < _ENTRY.size or _ENTRY.unpack(line)[0] != _THERE:
            return None
        entry = os.pread(self._features, self.entry_bytes, row * self.entry_bytes)
        whole = len(entry) == self.entry_bytes and zlib.crc32(entry) == _ENTRY.unpack(line)[1]
        return entry if whole else None

    @torch.no_grad()
    def _compute(self, image: Tensor) -> tuple[Tensor, ...]:
        # In float32 whatever the training's precision is.
        with torch.autocast(self._device.type, enabled=False):
            return outputs(self._backbone, image.to(self._device, torch.float32), self._end)

    def _facts(self) -> dict[str, Any]:
        """What the features depend on beside the pixels."""
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
            "device": self._device.type,  # the same convolution ends in other bits on another kind
        }

    def _open(self, facts: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder):  # processes of one run come here together
            self._claim(facts)
            self._check_space()
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._features = os.open(self.folder / FEATURES, flags, 0o666)
        self._index = os.open(self.folder / INDEX, flags, 0o666)

    def _claim(self, facts: dict[str, Any]) -> None:
        path = self.folder / IDENTITY
        facts = json.loads(json_bytes(facts))  # tuples are lists in the file
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


def _prefix_alone(backbone: nn.Module, end: str) -> nn.Module:
    """A copy of the tower that shares the prefix's tensors and has no others.

    Whatever later happens to the tower's modules (they may be sharded, or be giving features instead of computing
    them), each process can go on computing by itself, and no weight is held twice.
    """
    inside = {id(backbone.get_submodule(name)) for name in modules_until(backbone, end)}
    shared: dict[int, Any] = {}
    for part in backbone.modules():
        for tensor in filter(lambda found: found is not None, (*part._parameters.values(), *part._buffers.values())):
            shared[id(tensor)] = tensor if id(part) in inside else None
    return copy.deepcopy(backbone, shared)


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:  # a disk that fills up takes a part and refuses the next
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _allocated(path: Path) -> int:
    """Bytes the file takes on the disk: it has holes where rows are missing."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, getattr(found, "st_blocks", 0) * 512)
