"""Read a file once from its first byte to its last, hash it, and pass its tensors on piece by piece.

Only one piece is in memory at a time, whatever the file claims to hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import BundleError
from opentrans_cli.files.header import Head, TensorPlace, bits_dtype, read_head
from opentrans_cli.files.regular import open_regular

_PIECE = 4 << 20  # bytes; a multiple of every item size, and of the eight weights in a byte of a mask


class TensorPiece(NamedTuple):
    """Some consecutive values of a tensor."""

    file: str
    tensor: str
    dtype: str  # numpy name, or "bfloat16"
    start: int  # place of the first value in C order
    values: NDArray[Any]  # 1-D, only valid until the next piece; bfloat16 as its bits, uint16


class Scanned(NamedTuple):
    """What one pass over a file found."""

    sha256: str  # hex, of all bytes, also where the tensors are damaged
    places: dict[str, TensorPlace]  # {} for a file without tensors
    problem: BundleError | None  # why the tensors could not be read


def scan_file(path: Path) -> Scanned:
    """The hash of a file that is not a tensor file. Raises OSError."""
    sha = hashlib.sha256()
    with open_regular(path) as file:
        _hash_rest(file, sha)
    return Scanned(sha.hexdigest(), {}, None)


def scan_tensors(
    path: Path, name: str, *, check: Callable[[Head], None], see: Callable[[TensorPiece], None]
) -> Scanned:
    """Hash a tensor file and pass its values to `see`, in the order of the file.

    check: is called with the head first; if it raises BundleError, no tensor is passed on, and the bytes are only
    hashed. Raises OSError.
    """
    sha = hashlib.sha256()
    places: dict[str, TensorPlace] = {}
    problem = None
    with open_regular(path) as file:
        try:
            head = read_head(file, str(path))
            places = head.places
            check(head)
        except BundleError as error:
            problem = error
            file.seek(0)
        else:
            sha.update(head.raw)
            file.seek(head.start)
            for piece in _pieces(file, sha, name, places):
                see(piece)
        _hash_rest(file, sha)
    return Scanned(sha.hexdigest(), places, problem)


def _pieces(file: BinaryIO, sha: Any, name: str, places: dict[str, TensorPlace]) -> Iterator[TensorPiece]:
    buffer = memoryview(bytearray(_PIECE))
    for tensor, place in places.items():
        dtype = place.header.dtype
        left, start = place.end - place.start, 0
        while left:
            part = buffer[: min(left, _PIECE)]
            if file.readinto(part) != len(part):  # type: ignore[attr-defined]
                raise OSError(None, "file became shorter while it was read")
            sha.update(part)
            values = np.frombuffer(part, bits_dtype(dtype).newbyteorder("<"))
            if dtype == "bool" and (values.view(np.uint8) > 1).any():
                raise BundleError(f"no truth values: {tensor!r} in {name}; write or download the bundle again")
            yield TensorPiece(name, tensor, dtype, start, values)
            left, start = left - len(part), start + len(values)


def _hash_rest(file: BinaryIO, sha: Any) -> None:
    while block := file.read(_PIECE):
        sha.update(block)
