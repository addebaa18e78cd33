"""What is in the files of a data set: sizes, turns and ids of every pair, read by several threads."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.datasets.images import read_image, read_label_map
from opentrans_cli.datasets.pairs import Header, Pair, read_header
from opentrans_cli.errors import DataError
from opentrans_cli.reporter import SILENT, Reporter

Depth = Literal["sizes", "ids", "everything"]
"""What is read: headers alone; label maps as well; photos to their last byte as well."""

T = TypeVar("T")

THREADS = min(8, os.cpu_count() or 1)
"""Pillow lets other threads work while it decodes."""


@dataclass(frozen=True)
class Facts:
    """What is in a pair."""

    pair: Pair
    photo: Header | None = None  # None where the file cannot be read, as in the next
    label_map: Header | None = None
    pixels: dict[int, int] = field(default_factory=dict)  # by id; empty where ids were not read
    photo_error: DataError | None = None  # of the loader, as in the next
    label_map_error: DataError | None = None

    @property
    def fits(self) -> bool:
        """Whether both files can be read and are of one size."""
        return self.photo is not None and self.label_map is not None and self.photo.upright == self.label_map.stored


def scan(pairs: Sequence[Pair], depth: Depth, *, reporter: Reporter = SILENT) -> list[Facts]:
    """The facts of all pairs, in their order."""
    found: list[Facts] = []
    with warnings.catch_warnings(), reporter.bar("reading files", len(pairs)) as advance:
        # Threads share the filters of warnings, so what the loaders set for one file must hold all the time.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for facts in _in_threads(pairs, depth):
            found.append(facts)
            advance("")
    return found


def _in_threads(pairs: Sequence[Pair], depth: Depth) -> Iterator[Facts]:
    pool = ThreadPoolExecutor(THREADS)
    try:
        yield from pool.map(lambda pair: _facts(pair, depth), pairs)
    finally:
        pool.shutdown(cancel_futures=True)


def _facts(pair: Pair, depth: Depth) -> Facts:
    photo, photo_error = _tried(lambda: _photo(pair.photo, whole=depth == "everything"))
    label_map, map_error = _tried(lambda: _label_map(pair.label_map, whole=depth != "sizes"))
    header, pixels = label_map or (None, {})
    return Facts(pair, photo, header, pixels, photo_error, map_error)


def _tried(read: Callable[[], T]) -> tuple[T | None, DataError | None]:
    try:
        return read(), None
    except DataError as error:
        return None, error


def _photo(path: Path, *, whole: bool) -> Header:
    header = read_header(path, "image")
    if whole:
        read_image(path, shrink_to=1)  # every byte of a JPEG is decoded, into an eighth of the pixels
    return header


def _label_map(path: Path, *, whole: bool) -> tuple[Header, dict[int, int]]:
    header = read_header(path, "label map")
    if not whole:
        return header, {}
    return header, _counted(read_label_map(path))


def _counted(label_map: NDArray[np.int64]) -> dict[int, int]:
    """Pixels by id."""
    if label_map.min() < 0 or label_map.max() > 65535:
        ids, counts = np.unique(label_map, return_counts=True)
    else:  # several times as fast, since nothing is sorted
        every = np.bincount(label_map.reshape(-1))
        ids = np.flatnonzero(every)
        counts = every[ids]
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
