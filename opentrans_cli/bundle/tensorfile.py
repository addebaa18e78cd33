"""Reading and writing safetensors files with numpy alone.

Layout: 8 bytes little-endian header length, a JSON header, the tensors' bytes. We write it ourselves because
the library's writer orders metadata at random (other bytes for the same content) and numpy has no bfloat16;
reading goes through the library, which checks every offset. The bytes written equal those of
`safetensors.numpy.save` for at most one metadata key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from numpy.typing import NDArray

from opentrans_cli.bundle.atomic import Written, write_file
from opentrans_cli.errors import BundleError

Tensors = Mapping[str, NDArray[Any]]

METADATA_KEY = "opentrans"  # one key with sorted JSON: with several, other writers would shuffle them
MAX_HEADER = 32 << 20  # bytes; a ResNet-50 needs 20 kB, and a hostile header costs memory before anything is checked
_LFS_POINTER = b"version https://git-lfs"

# Largest alignment first is the order in which safetensors lays tensors out: code by numpy dtype.
_CODES = {
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
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_CODES)}


class Header(NamedTuple):
    """What a file says about one tensor without its data."""

    dtype: str  # numpy name, or "bfloat16"
    shape: tuple[int, ...]


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
    tensors: Tensors, metadata: Mapping[str, Any] | None = None, *, dtypes: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, piece by piece; arguments as in `write_tensors`."""
    stored = {name: _storable(name, array, (dtypes or {}).get(name)) for name, array in tensors.items()}
    names = sorted(stored, key=lambda name: (_ORDER[stored[name][0]], name))
    header: dict[str, Any] = {}
    if metadata is not None:
        header["__metadata__"] = {METADATA_KEY: _metadata_text(metadata)}
    offset = 0
    for name in names:
        dtype, data = stored[name]
        end = offset + data.nbytes
        header[name] = {"dtype": _CODES[dtype], "shape": list(data.shape), "data_offsets": [offset, end]}
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
    """Writes a safetensors file whole or not at all, the same bytes for the same content.

    tensors: numpy arrays of any shape: float64/32/16, (u)int8 to (u)int64, bool.
    metadata: JSON-ready mapping, stored as sorted JSON under the single key "opentrans".
    dtypes: name -> "bfloat16" for float32 tensors to be rounded to nearest even and stored as BF16.
    Raises BundleError when metadata is not plain JSON or the disk refuses.
    """
    try:
        return write_file(Path(path), tensor_chunks(tensors, metadata, dtypes=dtypes))
    except OSError as error:
        raise BundleError(
            f"cannot write: {str(path)!r}, {error.strerror or error}; check free space and permissions"
        ) from error


def read_tensors(path: Path | str) -> dict[str, NDArray[Any]]:
    """All tensors by name, writable; BF16 comes back as float32.

    Raises BundleError for a missing or damaged file.
    """
    tensor_headers(path)
    return parse_tensors(read_bytes(path), path)


def parse_tensors(data: bytes, path: Path | str) -> dict[str, NDArray[Any]]:
    """The tensors in the bytes of a safetensors file; `path` is only named in errors."""
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise damaged(path, error) from error
    return {name: _array(path, name, entry) for name, entry in sorted(entries)}


def read_metadata(path: Path | str) -> dict[str, Any]:
    """The JSON object stored beside the tensors, {} if there is none.

    Raises BundleError for a damaged file.
    """
    with _open(path) as file:
        text = (file.metadata() or {}).get(METADATA_KEY, "{}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "metadata is not JSON") from error
    if not isinstance(value, dict):
        raise damaged(path, "metadata is not a JSON object")
    return value


def tensor_headers(path: Path | str) -> dict[str, Header]:
    """dtype and shape of every tensor by name, read from the header alone.

    Raises BundleError for a damaged file.
    """
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in sorted(file.keys())}
        return {
            name: Header(dtype_name(path, name, view.get_dtype()), tuple(view.get_shape())) for name, view in slices.items()
        }


def read_bytes(path: Path | str) -> bytes:
    """The bytes of a file; BundleError when it is missing or unreadable."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that starts like this is the stand-in of a Git LFS file that was not downloaded."""
    return start.startswith(_LFS_POINTER)


def _open(path: Path | str) -> Any:
    _check_start(Path(path))
    try:
        return safetensors.safe_open(str(path), framework="numpy")
    except safetensors.SafetensorError as error:
        raise damaged(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_start(path: Path) -> None:
    """Refuses what the library would answer with a puzzling message, before any memory is reserved."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise _unreadable(path, error) from error
    if is_lfs_pointer(start):
        raise BundleError(f"Git LFS pointer instead of the file: {str(path)!r}; run `git lfs pull` in its folder")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > size - 8:
        raise damaged(path, "cut off or not a safetensors file")
    if length > MAX_HEADER:
        raise damaged(path, f"header of {length} bytes, at most {MAX_HEADER} are allowed")


def _storable(name: str, array: NDArray[Any], wanted: str | None) -> tuple[str, NDArray[Any]]:
    """(dtype to declare, little-endian C-ordered array to write)."""
    array = np.asarray(array, order="C")
    if wanted == "bfloat16":
        return wanted, np.asarray(to_bfloat16_bits(array), dtype="<u2", order="C")
    if wanted is not None and wanted != array.dtype.name:
        raise ValueError(f"tensor {name!r} is {array.dtype}; only bfloat16 is made on writing, not {wanted}")
    if array.dtype.name not in _CODES:
        raise ValueError(f"tensor {name!r} is {array.dtype}, which safetensors files do not hold")
    return array.dtype.name, array.astype(array.dtype.newbyteorder("<"), copy=False)


def _array(path: Path | str, name: str, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype = dtype_name(path, name, entry["dtype"])
    raw = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    array = np.frombuffer(entry["data"], dtype=raw.newbyteorder("<")).astype(raw, copy=False)
    if dtype == "bfloat16":
        array = from_bfloat16_bits(array)
    return array.reshape(entry["shape"])


def dtype_name(path: Path | str, name: str, code: str) -> str:
    """The numpy name, or "bfloat16", of a type in a header. Raises BundleError for types that bundles do not hold."""
    if code not in _DTYPES:
        raise damaged(path, f"tensor {name!r} has the unsupported type {code!r}")
    return _DTYPES[code]


def _metadata_text(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(metadata, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise BundleError(f"metadata is not plain JSON: {error}; use finite numbers, text, lists and dicts") from error


def damaged(path: Path | str, reason: object) -> BundleError:
    """The error for a file that is not what a safetensors file has to be."""
    # First line only: a library message may quote the file's own bytes.
    detail = str(reason).splitlines()[0] if str(reason) else "unreadable"
    return BundleError(f"damaged safetensors file: {str(path)!r}, {detail}; write or download it again")


def _unreadable(path: Path | str, error: OSError) -> BundleError:
    return BundleError(f"cannot read: {str(path)!r}, {error.strerror or error}; check the path and its permissions")
