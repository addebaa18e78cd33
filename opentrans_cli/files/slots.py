"""Places of tensors in a file, and copies of the file in which some of their bytes are changed.

A copy is made in pieces, so only a small part of the file is in memory at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from opentrans_cli.files.header import bits_dtype, item_bytes, read_head
from opentrans_cli.files.tensorfile import from_bfloat16_bits, to_bfloat16_bits

FLOATS = ("float64", "float32", "float16", "bfloat16")
PIECE = 4 << 20
"""Bytes that are in memory at once of what is only copied."""
_Edit = Callable[[NDArray[Any]], NDArray[Any]]


class Slot(NamedTuple):
    """A tensor in a file."""

    dtype: str  # numpy name, or "bfloat16"
    shape: tuple[int, ...]
    start: int  # of its first value, in bytes from the beginning of the file
    strides: tuple[int, ...]  # in values

    @property
    def end(self) -> int:
        """The first byte after the last value."""
        last = sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        return self.start + (item_bytes(self.dtype) * (last + 1) if prod(self.shape) else 0)


class Patch(NamedTuple):
    """Bytes of a file that are different in its copy."""

    start: int
    end: int
    make: Callable[[bytes], bytes]  # makes the new bytes from the old ones, with the same length


def c_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor whose last dimension is the fastest, in values."""
    return tuple(prod(shape[place + 1 :]) for place in range(len(shape)))


def safetensors_slots(file: BinaryIO, where: str) -> dict[str, Slot]:
    """The tensors of the open safetensors file `where`, by name in the order of the file.

    Raises BundleError if it is damaged.
    """
    head = read_head(file, where, foreign=True)
    return {
        name: Slot(place.header.dtype, place.header.shape, head.start + place.start, c_order(place.header.shape))
        for name, place in head.places.items()
    }


def read_slot(file: BinaryIO, slot: Slot) -> NDArray[Any]:
    """The values of a slot as they are stored, in its shape; bfloat16 as its bits (uint16). Raises OSError."""
    data = bytearray(slot.end - slot.start)
    file.seek(slot.start)
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise OSError("the file became shorter while it was read")
    return _view(slot, data)


def decoded(stored: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Stored values as numbers: floating-point ones as float32 (float64 stays)."""
    if dtype == "bfloat16":
        return from_bfloat16_bits(stored)
    return stored.astype(np.float32) if stored.dtype == np.float16 else stored


def encoded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Numbers as a slot of `dtype` stores them. Raises OverflowError if a finite one would become infinite."""
    if dtype == "bfloat16":
        bits = to_bfloat16_bits(values.astype(np.float32))
        changed = from_bfloat16_bits(bits)
    else:
        with np.errstate(over="ignore"):
            bits = changed = values.astype(dtype)
    if dtype in FLOATS and bool((np.isinf(changed) & np.isfinite(values)).any()):
        raise OverflowError(dtype)
    return bits


def edit_slot(slot: Slot, edit: _Edit) -> Patch:
    """A patch that replaces the stored values by the result of `edit`; bytes between them stay."""

    def make(old: bytes) -> bytes:
        buffer = bytearray(old)
        view = _view(slot, buffer)
        view[...] = edit(view.copy())
        return bytes(buffer)

    return Patch(slot.start, slot.end, make)


def patched(file: BinaryIO, patches: Iterable[Patch], start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` to `end` of the file, with the patches, which must be inside and must not overlap."""
    for patch in sorted(patches, key=_place):
        if not start <= patch.start <= patch.end <= end:
            raise ValueError(f"patches overlap or leave the file at byte {patch.start}")
        yield from pieces(file, start, patch.start)
        file.seek(patch.start)
        new = patch.make(file.read(patch.end - patch.start))
        if len(new) != patch.end - patch.start:
            raise ValueError(f"patch of other length at byte {patch.start}")
        yield new
        start = patch.end
    yield from pieces(file, start, end)


def checksum(file: BinaryIO, patches: Iterable[Patch], start: int, end: int) -> int:
    """CRC-32 of the bytes that `patched` gives."""
    value = 0
    for piece in patched(file, patches, start, end):
        value = zlib.crc32(piece, value)
    return value


def checksum_patches(
    file: BinaryIO, patches: Iterable[Patch], records: Iterable[tuple[int, int, tuple[int, ...]]]
) -> list[Patch]:
    """Patches for the tables of a zip archive after `patches`: the new CRC-32 of every changed record.

    records: first byte, byte after the last, and where the checksum is written (4 bytes each).
    """
    patches, found = list(patches), []
    for start, end, places in records:
        inside = [patch for patch in patches if start <= patch.start < end]
        if inside:
            value = checksum(file, inside, start, end).to_bytes(4, "little")
            found += [Patch(place, place + 4, _constant(value)) for place in places]
    return found


def _constant(value: bytes) -> Callable[[bytes], bytes]:
    return lambda old: value


def pieces(file: BinaryIO, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` to `end`, at most 4 MiB at a time."""
    while start < end:
        file.seek(start)
        piece = file.read(min(PIECE, end - start))
        if not piece:
            raise OSError("the file became shorter while it was read")
        yield piece
        start += len(piece)


def first_difference(one: BinaryIO, other: BinaryIO, patches: Iterable[Patch], end: int) -> int | None:
    """About the first byte where two files of `end` bytes differ outside the patches; None if they do not differ."""
    reached = 0
    for stop, following in [*((patch.start, patch.end) for patch in sorted(patches, key=_place)), (end, end)]:
        for mine, theirs in zip(pieces(one, reached, stop), pieces(other, reached, stop), strict=True):
            if mine != theirs:
                return reached
        reached = following
    return None


def _place(patch: Patch) -> tuple[int, int]:
    return patch.start, patch.end


def _view(slot: Slot, data: bytes | bytearray) -> NDArray[Any]:
    raw = bits_dtype(slot.dtype).newbyteorder("<")
    if not prod(slot.shape):
        return np.empty(slot.shape, raw)
    flat = np.frombuffer(data, raw)
    return as_strided(flat, slot.shape, tuple(stride * raw.itemsize for stride in slot.strides))
