"""Label maps that MATLAB wrote, as PASCAL Context has them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import PictureError

MATLAB_SUFFIX = ".mat"

VARIABLE = "LabelMap"
"""The name of the array in a file of PASCAL Context."""

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_matlab_labels(source: Path | io.BytesIO, name: str) -> NDArray[np.int64]:
    """The ids of the array `LabelMap` in a MATLAB file, int64 (H, W), 0 to 65535; `name` names the file in messages.

    Files of version 5 (`save -v7` and before) are read. Raises PictureError for a damaged file, one of version 7.3, and
    an array that is no label map.
    """
    from scipy.io import loadmat

    file = _opened(source, name)
    with _damage_named(name):
        array = np.asarray(loadmat(file, variable_names=[VARIABLE]).get(VARIABLE))
    if array.dtype == object:
        matlab_shape(file, name)
    numbers = array.ndim == 2 and array.size > 0 and array.dtype.kind in "biuf"
    if not numbers or not (array == array.round()).all() or array.min() < 0 or array.max() > 65535:
        form = f"{array.dtype} {array.shape}"
        raise PictureError(f"{VARIABLE} holds no ids: {name} ({form}); save a matrix of numbers from 0 to 65535")
    return array.astype(np.int64)


def matlab_shape(source: Path | io.BytesIO, name: str) -> tuple[int, int]:
    """The (height, width) of the same array, without reading it. Raises PictureError."""
    from scipy.io import whosmat

    file = _opened(source, name)
    with _damage_named(name):
        shapes = {key: shape for key, shape, _ in whosmat(file)}
    if VARIABLE not in shapes:
        there = ", ".join(sorted(shapes)) or "nothing"
        raise PictureError(f"MATLAB file has no {VARIABLE}: {name} holds {there}; name the array {VARIABLE}")
    if len(shapes[VARIABLE]) != 2:
        raise PictureError(f"{VARIABLE} is no matrix: {name} ({shapes[VARIABLE]}); save a matrix of ids")
    height, width = shapes[VARIABLE]
    return int(height), int(width)


def _opened(source: Path | io.BytesIO, name: str) -> io.BytesIO:
    try:
        file = io.BytesIO(source.read_bytes()) if isinstance(source, Path) else source
    except FileNotFoundError:
        raise PictureError(f"label map not found: {name}; check the path") from None
    except OSError as error:
        raise PictureError(f"label map cannot be read: {name}, {error.strerror}; check the file") from error
    if _HDF5 in (file.getbuffer()[:8], file.getbuffer()[512:520]):
        raise PictureError(f"label map is a MATLAB file of version 7.3: {name}; save it again with -v7")
    file.seek(0)
    return file


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged file can end in any of a dozen classes
        raise PictureError(f"label map cannot be read: {name}; it is damaged or no MATLAB file, replace it") from error
