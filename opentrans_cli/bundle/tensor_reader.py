"""Single tensors out of a file that was checked as a whole first, so that memory stays at one tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.header import PREFIX, Place, header_length, parse_header
from opentrans_cli.bundle.layout import check_headers
from opentrans_cli.bundle.regular import open_regular
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.bundle.tensorfile import from_bfloat16_bits
from opentrans_cli.errors import BundleError

_PIECE = 4 << 20  # bytes


@dataclass(frozen=True)
class TensorReader:
    """An open file of a bundle."""

    file: BinaryIO
    origin: str  # of the bundle, for errors
    places: dict[str, Place]  # tensors by name
    start: int  # of the first tensor, in bytes

    def read(self, name: str) -> NDArray[Any]:
        """One tensor in its shape and dtype, BF16 as float32. KeyError if it is not there."""
        place = self.places[name]
        dtype, shape = place.header
        self.file.seek(self.start + place.start)
        data = self.file.read(place.end - place.start)
        raw = np.frombuffer(data, np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<"))
        return (from_bfloat16_bits(raw) if dtype == "bfloat16" else raw).reshape(shape)


@contextmanager
def tensor_reader(bundle: Bundle, name: str) -> Iterator[TensorReader]:
    """The tensor file `name` of a bundle, open until the block ends.

    Raises BundleError when it is missing, does not match its hash, or has other tensors than the manifest says.
    """
    entry, path = bundle.manifest.file(name), bundle.file_path(name)
    assert entry is not None  # `file_path` refuses what is not declared
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = header_length(file.read(64), size, str(path))
            file.seek(PREFIX)
            places = parse_header(file.read(length), size, str(path))
            check_headers(bundle.manifest, name, {tensor: place.header for tensor, place in places.items()})
            if _sha256(file) != entry.sha256:
                raise BundleError(
                    f"{name} does not match its hash: {str(bundle.path)!r}; it was changed or damaged, "
                    "write or download the bundle again"
                )
            yield TensorReader(file, str(bundle.path), places, PREFIX + length)
    except OSError as error:
        raise BundleError(
            f"cannot read: {str(path)!r}, {error.strerror or error}; check the path and its permissions"
        ) from error


def _sha256(file: BinaryIO) -> str:
    sha = hashlib.sha256()
    file.seek(0)
    while block := file.read(_PIECE):
        sha.update(block)
    return sha.hexdigest()
