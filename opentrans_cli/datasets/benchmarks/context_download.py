"""PASCAL Context as it is downloaded: VOC 2010, a MATLAB file for each picture, and the file of PASCAL in Detail.

The split is that of the file of PASCAL in Detail, as in the field's own converters. Where it is not there, VOC's list
stands for it, which has one more picture.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.benchmarks.context_ids import CONTEXT_59_IDS, CONTEXT_HOMES, MOST_CONTEXT_ID
from opentrans_cli.datasets.benchmarks.detail import DetailPicture, read_detail
from opentrans_cli.datasets.benchmarks.raw import RawDownload, RawPicture
from opentrans_cli.datasets.class_file import LARGEST_ID
from opentrans_cli.datasets.matlab import read_matlab_labels
from opentrans_cli.datasets.options import Split
from opentrans_cli.errors import DataError, PictureError

_DETAIL, _PHOTOS, _MATLAB = "trainval_merged.json", "JPEGImages", "trainval"


def context_59_pictures(root: Path, split: Split) -> RawDownload | None:
    """The pictures of a split, with the 59 classes that PASCAL in Detail gives them; None if its file is not there.

    Raises DataError if that is damaged, or where photos are missing.
    """
    return _pictures(root, split, lambda home, picture: (str(home / _DETAIL), partial(_of_regions, picture)))


def context_459_pictures(root: Path, split: Split) -> RawDownload | None:
    """The same with the 459 classes of the MATLAB files."""

    def labels(home: Path, picture: DetailPicture) -> tuple[str, Callable[[], NDArray[np.int64]]]:
        file = home / _MATLAB / f"{Path(picture.file).stem}.mat"
        return str(file), partial(_of_matlab, file)

    return _pictures(root, split, labels)


def _pictures(
    root: Path, split: Split, labels: Callable[[Path, DetailPicture], tuple[str, Callable[[], NDArray[np.int64]]]]
) -> RawDownload | None:
    home = next((root / home for home in CONTEXT_HOMES if (root / home / _DETAIL).is_file()), None)
    if home is None:
        return None
    pictures = []
    for picture in read_detail(home / _DETAIL):
        if picture.split == split:
            photo = home / _PHOTOS / picture.file
            pictures.append(RawPicture(photo.stem, photo, *labels(home, picture)))
    if not pictures:
        raise DataError(f"no pictures of the split '{split}': {home / _DETAIL}; download it again")
    for file in [each.photo for each in pictures] + [Path(each.labels) for each in pictures]:
        if not file.is_file():
            raise DataError(f"PASCAL Context is not whole: {file} is missing; unpack the downloads again")
    return RawDownload(f"{_DETAIL} of PASCAL in Detail", home, tuple(pictures))


def _of_regions(picture: DetailPicture) -> NDArray[np.int64]:
    """Indices of the 59 classes. Raises PictureError for a category that is none of them."""
    table = np.full(MOST_CONTEXT_ID + 2, -1, np.int64)
    table[list(CONTEXT_59_IDS)] = np.arange(len(CONTEXT_59_IDS))
    table[0] = LARGEST_ID
    ids = picture.category_ids()
    indices = table[ids.clip(0, MOST_CONTEXT_ID + 1)]
    if (indices < 0).any():
        raise PictureError(
            f"category {ids[indices < 0][0]} is none of the 59 classes: {picture.file} in the file of PASCAL in "
            f"Detail; download {_DETAIL}"
        )
    return indices


def _of_matlab(file: Path) -> NDArray[np.int64]:
    """Indices of the 459 classes. Raises PictureError for an id that is none of them."""
    ids = read_matlab_labels(file, str(file))
    if ids.max() > MOST_CONTEXT_ID:
        raise PictureError(f"id {ids.max()} is none of the {MOST_CONTEXT_ID} classes: {file}; download it again")
    return np.where(ids == 0, LARGEST_ID, ids - 1)
