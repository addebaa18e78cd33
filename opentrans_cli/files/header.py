"""The header of a safetensors file, read more strictly than the library does.

If two tensors have the same name, the library takes the last, where another reader may take the first, and its messages
quote the file. Here every name must occur once, every tensor must begin where the one before it ends, and no memory is
allocated for a tensor before its type, shape and number of bytes agree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import is_clean, parse_json

_PREFIX = 8  # bytes of the header's length
METADATA = "__metadata__"
MAX_HEADER = 32 << 20  # bytes; a ResNet-50 needs 20 kB, and a hostile header costs memory before anything is checked
MAX_TENSOR_NAME = 256  # characters: a round, a layer's name and a suffix
MAX_TENSORS = 1 << 17  # in one file; a tower has hundreds, and is stored for at most 254 rounds
_MAX_VALUES = 1 << 22  # commas; this limits the number of objects made from a header
_MAX_DIMENSIONS = 32  # as many as numpy 1 has
_MAX_SIDE = 2**48  # far above any tensor; numpy's own limit is lower for wide types, even if another side is zero
_LFS_POINTER = b"version https://git-lfs"

# Codes by numpy dtype, in the order in which safetensors stores tensors: largest alignment first.
CODES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "bfloat16": "BF16",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
DTYPES = {code: dtype for dtype, code in CODES.items()}
_FOREIGN = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64"}  # in no bundle
_BITS = {"bfloat16": "uint16", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
_KEYS = {"dtype", "shape", "data_offsets"}


class TensorHeader(NamedTuple):
    """The description of one tensor in a file, without its data."""

    dtype: str  # numpy name, or "bfloat16"
    shape: tuple[int, ...]


class TensorPlace(NamedTuple):
    """A tensor and its place: its first byte and the one after its last, counted from the end of the header."""

    header: TensorHeader
    start: int
    end: int


class Head(NamedTuple):
    """The part of a file before the values."""

    places: dict[str, TensorPlace]  # by tensor, in the order of the file
    metadata: dict[str, str]  # {} if there is none
    raw: bytes  # all of it, as it is in the file

    @property
    def start(self) -> int:
        """Where the values begin, in bytes from the beginning of the file."""
        return len(self.raw)

    def headers(self) -> dict[str, TensorHeader]:
        """Type and shape of every tensor by name, sorted."""
        return {name: self.places[name].header for name in sorted(self.places)}

    def read(self, file: BinaryIO, name: str) -> NDArray[Any]:
        """One tensor as stored, in its shape, writable; types that numpy does not have are given as their bits.

        Raises KeyError if it is not there, OSError if the file has become shorter.
        """
        place = self.places[name]
        values = np.empty(place.header.shape, bits_dtype(place.header.dtype).newbyteorder("<"))
        file.seek(self.start + place.start)
        if file.readinto(values.reshape(-1).view(np.uint8)) != values.nbytes:  # type: ignore[attr-defined]
            raise OSError(None, "file became shorter while it was read")
        return values.astype(values.dtype.newbyteorder("="), copy=False)


def bits_dtype(dtype: str) -> np.dtype[Any]:
    """The numpy dtype for stored values: integers if numpy has no such type. Raises TypeError for an unknown type."""
    return np.dtype(_BITS.get(dtype, dtype))


def item_bytes(dtype: str) -> int:
    """Bytes of one value of a tensor."""
    return bits_dtype(dtype).itemsize


def read_head(file: BinaryIO, where: str, *, foreign: bool = False) -> Head:
    """The head of the open safetensors file `where`; its tensors are in the order of the file, and no value is read.

    foreign: the file is not from a bundle, so its tensors may have any name and types that numpy does not know; such
    types are given by torch's name or their code.
    Raises BundleError, before any memory is reserved, unless the tensors fill the file without a gap.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(64)
    if is_lfs_pointer(start):
        raise BundleError(f"Git LFS pointer instead of the file: {where!r}; run `git lfs pull` in its folder")
    length = int.from_bytes(start[:_PREFIX], "little")
    if len(start) < _PREFIX or length > size - _PREFIX:
        raise damaged(where, "cut off or not a safetensors file")
    if length > MAX_HEADER:
        raise damaged(where, f"header of {length} bytes, at most {MAX_HEADER} are allowed")
    file.seek(_PREFIX)
    text = file.read(length)
    try:
        if not text.startswith(b"{"):
            raise BundleError("header is no JSON object")
        document = parse_json(text.rstrip(b" "), "header", max_values=_MAX_VALUES)
        metadata = document.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise BundleError("metadata is not text by name")
        if len(document) > MAX_TENSORS:
            raise BundleError(f"{len(document)} tensors, at most {MAX_TENSORS} are allowed")
        places = {name: _place(name, entry, foreign) for name, entry in document.items()}
        places = dict(sorted(places.items(), key=lambda item: (item[1].start, item[1].end, item[0])))
        _check_places(places, size - _PREFIX - len(text))
    except BundleError as error:
        raise damaged(where, error) from error
    return Head(places, metadata, start[:_PREFIX] + text)


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that starts like this is the pointer to a Git LFS file that was not downloaded."""
    return start.startswith(_LFS_POINTER)


def damaged(path: Path | str, reason: object) -> BundleError:
    """The error for a file that is not a correct safetensors file."""
    detail = str(reason).removesuffix("; write or download the bundle again")
    return BundleError(f"damaged safetensors file: {str(path)!r}, {detail}; write or download it again")


def _place(name: str, entry: Any, foreign: bool) -> TensorPlace:
    if not foreign and (not 0 < len(name) <= MAX_TENSOR_NAME or not is_clean(name)):
        raise BundleError(f"name of a tensor is not allowed: {name[:MAX_TENSOR_NAME]!r}")
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise BundleError(f"tensor {name!r} is not described by dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    if dtype is None and foreign and isinstance(code, str) and is_clean(code):
        dtype = _FOREIGN.get(code, code)
    if dtype is None:
        raise BundleError(f"tensor {name!r} has the unsupported type {str(code)[:20]!r}")
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS or prod(side for side in shape if side) > _MAX_SIDE:
        raise BundleError(f"tensor {name!r} has a shape out of range")
    if not _counts(offsets) or len(offsets) != 2:
        raise BundleError(f"tensor {name!r} has offsets out of range")
    start, end = offsets
    known = dtype in CODES or dtype in _FOREIGN.values()
    if start > end or (known and end - start != prod(shape) * item_bytes(dtype)):
        raise BundleError(f"tensor {name!r} has bytes {start} to {end}, which its shape does not fill")
    return TensorPlace(TensorHeader(dtype, tuple(shape)), start, end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _MAX_SIDE for item in value)


def _check_places(places: Mapping[str, TensorPlace], data_bytes: int) -> None:
    """Check that tensors do not overlap, leave no gap, and end with the file."""
    reached = 0
    for name, place in places.items():
        if place.start != reached:
            raise BundleError(f"tensor {name!r} begins at byte {place.start}, the one before it ends at {reached}")
        reached = place.end
    if reached != data_bytes:
        raise BundleError(f"tensors end at byte {reached} of {data_bytes}")
