"""What is in the files of a data set: sizes, turns and ids of every pair, read by several threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.class_file import LARGEST_ID
from opentrans_cli.datasets.images import look_at, picture_warnings
from opentrans_cli.datasets.pairs import Header, Pair, misfit, read_header
from opentrans_cli.datasets.picture_source import Picture, read_ids, read_picture
from opentrans_cli.errors import PictureError
from opentrans_cli.reporter import SILENT, Reporter

Depth = Literal["sizes", "ids", "everything"]
"""What is read: headers alone; label maps as well; photos to their last byte as well."""

T = TypeVar("T")
R = TypeVar("R")

THREADS = min(8, os.cpu_count() or 1)
"""Pillow lets other threads work while it decodes."""


@dataclass(frozen=True)
class Facts:
    """What is in a pair."""

    pair: Pair
    photo: Header | None = None  # None where the file cannot be read, as in the next
    label_map: Header | None = None
    pixels: dict[int, int] = field(default_factory=dict)  # by id; empty where ids were not read
    photo_error: PictureError | None = None  # of the loader, as in the next
    label_map_error: PictureError | None = None

    @property
    def error(self) -> PictureError | None:
        """What a loader would raise for this pair, ids apart; None if it can be used."""
        if self.photo is None or self.label_map is None:
            return self.photo_error or self.label_map_error
        return misfit(self.pair, self.photo, self.label_map)

    @property
    def turn_unclear(self) -> bool:
        """Whether EXIF turns or mirrors the photo, and no size says if the label map fits it so or as it is stored."""
        if self.photo is None or self.label_map is None or self.error is not None or self.photo.orientation == 1:
            return False
        return self.photo.upright == self.photo.stored


def spread(items: Sequence[T], most: int) -> Sequence[T]:
    """All items, or `most` of them at even distances."""
    return items if len(items) <= most else [items[place * len(items) // most] for place in range(most)]


def scan(pairs: Sequence[Pair], depth: Depth, *, reporter: Reporter = SILENT) -> list[Facts]:
    """The facts of all pairs, in their order."""
    found: list[Facts] = []
    with reporter.bar("reading files", len(pairs)) as advance:
        for facts in read_ahead(lambda pair: _facts(pair, depth), pairs):
            found.append(facts)
            advance("")
    return found


def read_ahead(read: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """What `read` makes of each item, in their order, by several threads; only a few are read in advance.

    So the memory it takes is that of few, whatever their number.
    """
    pool = ThreadPoolExecutor(THREADS)
    ahead: deque[Future[R]] = deque()
    try:
        with picture_warnings():
            for item in items:
                ahead.append(pool.submit(read, item))
                if len(ahead) > 2 * THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _facts(pair: Pair, depth: Depth) -> Facts:
    photo, photo_error = _tried(lambda: _photo(pair.photo, whole=depth == "everything"))
    label_map, map_error = _tried(lambda: _label_map(pair.label_map, whole=depth != "sizes"))
    header, pixels = label_map or (None, {})
    if photo is not None and header is not None and not photo.holds(header):
        photo, photo_error = _tried(lambda: read_header(pair.photo, "image", whole=True))
    return Facts(pair, photo, header, pixels, photo_error, map_error)


def _tried(read: Callable[[], T]) -> tuple[T | None, PictureError | None]:
    try:
        return read(), None
    except PictureError as error:
        return None, error


def _photo(picture: Picture, *, whole: bool) -> Header:
    header = read_header(picture, "image")
    if whole:
        read_picture(picture, shrink_to=1)  # every byte of a JPEG is decoded, into an eighth of the pixels
    elif picture.member is None:
        look_at(picture.path)
    return header


def _label_map(picture: Picture, *, whole: bool) -> tuple[Header, dict[int, int]]:
    return read_header(picture, "label map"), count_ids(read_ids(picture)) if whole else {}


def count_ids(label_map: NDArray[np.integer]) -> dict[int, int]:
    """Pixels by id."""
    if label_map.min() < 0 or label_map.max() > LARGEST_ID:
        ids, counts = np.unique(label_map, return_counts=True)
    else:  # several times as fast, since nothing is sorted
        every = np.bincount(label_map.reshape(-1))
        ids = np.flatnonzero(every)
        counts = every[ids]
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
