"""Reading and writing safetensors files with numpy alone.

Layout: 8 bytes little-endian header length, a JSON header, the tensors' bytes. The library is not used to write: it
needs a second copy of everything in memory and gives no hash, and numpy has no bfloat16; the bytes equal those of
`safetensors.numpy.save` for at most one metadata key. It is not used to read: it allows a name to occur twice and
quotes the file in its messages, see `header.py`.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import BundleError
from opentrans_cli.files.atomic import Written, cannot_write, write_file
from opentrans_cli.files.header import CODES, METADATA, Head, TensorHeader, damaged, read_head
from opentrans_cli.files.records import parse_json, plain_json
from opentrans_cli.files.regular import open_regular

Tensors = Mapping[str, NDArray[Any]]

METADATA_KEY = "opentrans"  # one key with sorted JSON: other writers would change the order of several keys
_PIECE = 4 << 20  # bytes
_ORDER = {dtype: place for place, dtype in enumerate(CODES)}


def to_bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 of any shape to bfloat16 bits (uint16): round to nearest, ties to even; NaN stays NaN."""
    values = np.asarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    # Rounding can carry a NaN's mantissa into the exponent, so NaNs are truncated with the quiet bit set.
    quiet = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def from_bfloat16_bits(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 bits (uint16) to the float32 with the same value."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def tensor_chunks(
    tensors: Tensors,
    metadata: Mapping[str, Any] | None = None,
    *,
    dtypes: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece; arguments as in `write_tensors`.

    beside: further metadata, for readers of other programs; sorted, while the library's own order changes from run to
    run.
    """
    stored = {name: _storable(name, array, (dtypes or {}).get(name)) for name, array in tensors.items()}
    names = sorted(stored, key=lambda name: (_ORDER[stored[name][0]], name))
    header: dict[str, Any] = {}
    if metadata is not None:
        header[METADATA] = dict(sorted({**(beside or {}), METADATA_KEY: _metadata_text(metadata)}.items()))
    offset = 0
    for name in names:
        dtype, data = stored[name]
        end = offset + data.nbytes
        header[name] = {"dtype": CODES[dtype], "shape": list(data.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        yield stored[name][1].reshape(-1).view(np.uint8).data


def write_tensors(
    path: Path | str,
    tensors: Tensors,
    metadata: Mapping[str, Any] | None = None,
    *,
    dtypes: Mapping[str, str] | None = None,
) -> Written:
    """Writes a safetensors file completely or not at all; the same content gives the same bytes.

    tensors: numpy arrays of any shape: float64/32/16, (u)int8 to (u)int64, bool.
    metadata: JSON-ready mapping, stored as sorted JSON under the single key "opentrans".
    dtypes: name -> "bfloat16" for float32 tensors to be rounded to nearest even and stored as BF16.
    Raises BundleError if the metadata is not plain JSON or writing fails.
    """
    try:
        return write_file(Path(path), tensor_chunks(tensors, metadata, dtypes=dtypes))
    except OSError as error:
        raise cannot_write(path, error) from error


def parse_metadata(head: Head, path: Path | str) -> dict[str, Any]:
    """The JSON object in the metadata of the file `path`, {} if there is none. Raises BundleError for anything else."""
    try:
        value = plain_json(parse_json(head.metadata.get(METADATA_KEY, "{}").encode(), "metadata"), "metadata")
    except (ValueError, BundleError) as error:
        raise damaged(path, "metadata is not plain JSON") from error
    if not isinstance(value, dict):
        raise damaged(path, "metadata is not a JSON object")
    return value


class OpenTensors:
    """An open safetensors file: its head is read at once, its tensors one at a time. It closes with this object."""

    def __init__(self, file: BinaryIO, path: Path | str) -> None:
        """`file` is closed with the object; `path` is named in errors. Raises BundleError for a damaged head."""
        self.path = path
        self._file, self._lock = file, threading.Lock()
        weakref.finalize(self, file.close)
        with self._reading():
            self.head = read_head(file, str(path))

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON object stored beside the tensors, {} if there is none. Raises BundleError where it is damaged."""
        return parse_metadata(self.head, self.path)

    def sha256(self) -> str:
        """SHA-256 of the whole file, hexadecimal; the file is read a few megabytes at a time."""
        digest = hashlib.sha256()
        with self._reading():
            self._file.seek(0)
            while block := self._file.read(_PIECE):
                digest.update(block)
        return digest.hexdigest()

    def stamp(self) -> tuple[int, int, int]:
        """Size and times of the last change of the file; they change when somebody writes into it."""
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def read(self, name: str) -> NDArray[Any]:
        """One tensor, writable, in its shape and dtype; BF16 as float32. KeyError if it is not there."""
        with self._reading():
            stored = self.head.read(self._file, name)
        return _decoded(self.path, name, self.head.places[name].header.dtype, stored)

    def read_all(self) -> dict[str, NDArray[Any]]:
        """All tensors by name, sorted."""
        return {name: self.read(name) for name in self.head.headers()}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except OSError as error:
            raise _unreadable(self.path, error) from error
        except MemoryError as error:
            raise _too_large(self.path) from error


def open_tensors(path: Path | str) -> OpenTensors:
    """The safetensors file `path`. Raises BundleError if it is missing, not a regular file, or damaged."""
    try:
        return OpenTensors(open_regular(path), path)
    except OSError as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path | str) -> dict[str, NDArray[Any]]:
    """All tensors by name, writable; BF16 comes back as float32.

    Raises BundleError for a missing or damaged file.
    """
    return open_tensors(path).read_all()


def parse_tensors(data: bytes, path: Path | str) -> dict[str, NDArray[Any]]:
    """The tensors in the bytes of a safetensors file, writable; `path` is only named in errors."""
    return OpenTensors(io.BytesIO(data), path).read_all()


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The JSON object stored beside the tensors, {} if there is none.

    Raises BundleError for a damaged file.
    """
    return open_tensors(path).metadata


def tensor_headers(path: Path | str) -> dict[str, TensorHeader]:
    """dtype and shape of every tensor by name, sorted, read from the header alone.

    Raises BundleError for a damaged file.
    """
    return open_tensors(path).head.headers()


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a file. Raises BundleError if it is missing, unreadable, not regular, or larger than memory."""
    try:
        with open_regular(path) as file:
            return file.read()
    except OSError as error:
        raise _unreadable(path, error) from error
    except MemoryError as error:
        raise _too_large(path) from error


def _storable(name: str, array: NDArray[Any], wanted: str | None) -> tuple[str, NDArray[Any]]:
    """(dtype to declare, little-endian C-ordered array to write)."""
    array = np.asarray(array, order="C")
    if wanted == "bfloat16":
        return wanted, np.asarray(to_bfloat16_bits(array), dtype="<u2", order="C")
    if wanted is not None and wanted != array.dtype.name:
        raise ValueError(f"tensor {name!r} is {array.dtype}; only bfloat16 is made on writing, not {wanted}")
    if array.dtype.name not in CODES:
        raise ValueError(f"tensor {name!r} is {array.dtype}, which safetensors files do not hold")
    return array.dtype.name, array.astype(array.dtype.newbyteorder("<"), copy=False)


def _decoded(path: Path | str, name: str, dtype: str, stored: NDArray[Any]) -> NDArray[Any]:
    if dtype == "bool" and (stored.view(np.uint8) > 1).any():
        raise damaged(path, f"tensor {name!r} has truth values beside 0 and 1")
    return from_bfloat16_bits(stored) if dtype == "bfloat16" else stored


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise BundleError(f"metadata is not plain JSON: {error}; use finite numbers, text, lists and dicts") from error


def _too_large(path: Path | str) -> BundleError:
    return BundleError(f"file does not fit into memory: {str(path)!r}; use a machine with more, or a smaller bundle")


def _unreadable(path: Path | str, error: OSError) -> BundleError:
    return BundleError(f"cannot read: {str(path)!r}, {error.strerror or error}; check the path and its permissions")
