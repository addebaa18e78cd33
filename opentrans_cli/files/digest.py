"""Fingerprints of files and of a visual tower's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.files.regular import open_regular

_BLOCK = 1 << 20


def file_sha256(path: Path | str) -> str:
    """Lower-case hex sha256 of a file's bytes. Raises OSError, also if it is not a regular file."""
    sha = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            sha.update(block)
    return sha.hexdigest()


def tower_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Fingerprint "sha256:<hex>" of the named tensors of one tower.

    Floating values are rounded to float16 first, integers and bools widened to int64, so copies of the same
    weights stored in float16 and in float32 agree. Names and shapes count; the order of the mapping does not.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        kind, values = _canonical(array)
        # JSON lines keep their limits clear, whatever characters a name contains.
        sha.update(json.dumps([name, list(array.shape), kind]).encode() + b"\n")
        sha.update(values.tobytes())
    return f"sha256:{sha.hexdigest()}"


def _canonical(array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    if not np.issubdtype(array.dtype, np.floating):
        return "int64", array.astype("<i8")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # First rounded to float32, so that a float64 copy of float32 weights is rounded in the same way.
        return "float16", array.astype(np.float32).astype("<f2")
