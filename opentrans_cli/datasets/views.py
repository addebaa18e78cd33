"""Fixed square images for distillation: which views a set of pictures has, and how any process makes the same ones.

Views are kept in memory or made again for every batch; their bits are always the same.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import resize_image
from opentrans_cli.datasets.picture_source import Picture, read_picture
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.datasets.workers import Workers
from opentrans_cli.errors import DataError, OptionError

DETAIL = 4
"""A large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size while its shorter side stays DETAIL times a view's:
even the smallest crop (0.45 of that side) is then shrunk further, never blown up."""

_CHOICE_SALT = 0x63686F696365  # keep these numbers apart from those of other users of the same seed
_VIEW_SALT = 0x7669657773
_SMALLEST_AREA = 0.2


@dataclass(frozen=True, eq=False)
class Made:
    """The views of one piece of work."""

    pixels: NDArray[np.uint8]  # (B, S, S, 3), zeros where a picture is bad
    bad: dict[int, str]  # position in the piece, ascending -> what is wrong with its picture, and what the user can do


class ViewTask(Protocol):
    """A few views to make, complete in itself."""

    def run(self) -> Made:
        """The views; a function of the piece alone."""


class ViewSet(Protocol):
    """A fixed, ordered set of square views."""

    size: int

    @property
    def pictures(self) -> int:
        """How many pictures they are made of."""

    def __len__(self) -> int:
        """How many views there are if no picture is bad."""

    def piece(self, rows: Sequence[int]) -> ViewTask:
        """The work of making views `rows`; neighbouring views of one picture decode it only once."""

    def name(self, row: int) -> str:
        """What view `row` is made of, for messages."""


class PhotoViews:
    """For every picture its whole view and then one random crop, at most `limit` views in total.

    View and crop are functions of the picture, its index in `pictures`, `size` and `seed`. If there are
    more pictures than the limit allows, `seed` chooses some; they stay in the order of the listing.
    """

    def __init__(self, pictures: Sequence[Picture], *, size: int, limit: int, seed: int) -> None:
        """`size`: side of the views in pixels. Raises OptionError for a limit below 1."""
        self._count = _checked(limit, 2 * len(pictures))
        self._pictures, self.size, self._seed = pictures, size, seed
        drawn = Stream(seed ^ _CHOICE_SALT, 0).words(len(pictures))
        self._chosen: NDArray[np.int64] = np.sort(np.argsort(drawn, kind="stable")[: (self._count + 1) // 2])

    def __len__(self) -> int:
        return self._count

    @property
    def pictures(self) -> int:
        """How many pictures the views are made of."""
        return len(self._chosen)

    def piece(self, rows: Sequence[int]) -> ViewTask:
        """The work of making views `rows`."""
        indices = [int(self._chosen[row // 2]) for row in rows]
        views = [(self._pictures[index], index, row % 2 == 1) for index, row in zip(indices, rows, strict=True)]
        return _PhotoTask(tuple(views), self.size, self._seed)

    def name(self, row: int) -> str:
        """The name of the picture of view `row`."""
        return self._pictures[self._chosen[row // 2]].name


@dataclass(frozen=True)
class _PhotoTask:
    views: tuple[tuple[Picture, int, bool], ...]  # picture, its index in the listing, whether to crop it
    size: int
    seed: int

    def run(self) -> Made:
        pixels = np.zeros((len(self.views), self.size, self.size, 3), np.uint8)
        bad: dict[int, str] = {}
        decoded = -1
        for position, (picture, index, cropped) in enumerate(self.views):
            try:
                if index != decoded:
                    image, decoded = read_picture(picture, shrink_to=DETAIL * self.size), index
            except DataError as error:
                bad[position] = str(error)
                continue
            view = random_view(image, self.size, self.seed, index) if cropped else whole_view(image, self.size)
            pixels[position] = view
        return Made(pixels, bad)


class SceneViews:
    """The first `limit` training scenes of the embedded data set `shapes`: one view each."""

    def __init__(self, *, size: int, limit: int) -> None:
        """`size`: side of the scenes in pixels. Raises OptionError for a limit below 1."""
        self.size, self._count = size, _checked(limit, limit)

    def __len__(self) -> int:
        return self._count

    @property
    def pictures(self) -> int:
        """How many scenes there are."""
        return self._count

    def piece(self, rows: Sequence[int]) -> ViewTask:
        """The work of rendering scenes `rows`."""
        return _SceneTask(tuple(rows), self.size)

    def name(self, row: int) -> str:
        """The scene of view `row`."""
        return f"scene {row}"


@dataclass(frozen=True)
class _SceneTask:
    scenes: tuple[int, ...]
    size: int

    def run(self) -> Made:
        scenes = ShapesDataset("train", size=self.size, count=max(self.scenes) + 1)
        return Made(np.stack([scenes[index].image for index in self.scenes]), {})


def whole_view(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of `image` (H, W, 3), its shorter side resized to `size` (CLIP's own preprocessing)."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    resized = resize_image(image, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def random_view(image: NDArray[np.uint8], size: int, seed: int, index: int) -> NDArray[np.uint8]:
    """A random square of `image` with 20-100 % of its largest square's area, resized to `size`.

    A function of its arguments: crops of different `index` are independent.
    """
    stream = Stream(seed ^ _VIEW_SALT, index)
    shorter = min(image.shape[:2])
    smallest = max(1, int(shorter * _SMALLEST_AREA**0.5))
    side = smallest + stream.below(shorter - smallest + 1)
    top = stream.below(image.shape[0] - side + 1)
    left = stream.below(image.shape[1] - side + 1)
    return resize_image(image[top : top + side, left : left + side], (size, size))


def _checked(limit: int, available: int) -> int:
    if limit < 1:
        raise OptionError(f"--image-limit must be at least 1: {limit}; leave it out for the default")
    return min(limit, available)


Pixels = NDArray[np.uint8]
"""Views (B, S, S, 3), RGB."""

IN_MEMORY = 2 << 30
"""Bytes up to which views are kept; more are made again for every batch."""

_PER_PIECE = 8  # views a worker makes at a time; even, so that both views of a picture come from one decoding


class Views:
    """The views of `view_set` by row: `scan` goes through all of them once, then `fetch` and `stream` give any.

    The rows are those of the good pictures, in the set's order. Up to `in_memory` bytes are kept after the scan;
    a larger set is made again, by `workers` processes, whenever it is asked for. Neither changes a bit of any view: a
    picture whose pixels differ from those in the scan is an error. Use it as a context manager, or `close` it.
    """

    def __init__(
        self, view_set: ViewSet, *, workers: int = 0, skip_bad: bool = False, in_memory: int = IN_MEMORY
    ) -> None:
        """`skip_bad`: leave pictures out that cannot be read, and name them in `bad`; else the first is an error."""
        self.size = view_set.size
        self.streamed = len(view_set) * self.size**2 * 3 > in_memory
        self.bad: tuple[str, ...] = ()
        """One entry for each picture left out, with what is wrong with it; complete after the scan."""
        self._set, self._skip_bad = view_set, skip_bad
        self._workers: Workers[Made] = Workers(workers)
        self._rows: NDArray[np.int64] | None = None  # view -> row of the set
        self._checks = np.zeros(len(view_set), np.uint32)  # CRC-32 of each view as the scan saw it
        self._kept: Pixels = np.empty((0 if self.streamed else len(view_set), self.size, self.size, 3), np.uint8)
        self._fingerprint = ""

    def __len__(self) -> int:
        """How many views there are; known after the scan."""
        return len(self._scanned())

    @property
    def planned(self) -> int:
        """How many views there are if no picture is bad."""
        return len(self._set)

    @property
    def fingerprint(self) -> str:
        """ "sha256:<hex>" of all pixels, view after view, and then the shape; known after the scan."""
        self._scanned()
        return self._fingerprint

    def scan(self, batch_size: int = 64) -> Iterator[Pixels]:
        """All views in order, about `batch_size` at a time (fewer where pictures are bad): the one pass to make first.

        It must be used to its end. Raises DataError for the first bad picture, or with `skip_bad` if no good one is
        left, and if a worker is killed.
        """
        digest, good, bad = hashlib.sha256(), [np.empty(0, np.int64)], dict[str, None]()
        batches = _batches(np.arange(len(self._set)), max(1, -(-batch_size // _PER_PIECE)) * _PER_PIECE)
        filled = 0
        for rows, (pixels, wrong) in zip(batches, self._make(batches), strict=True):
            if wrong and not self._skip_bad:
                raise DataError(f"{next(iter(wrong.values()))} or skip it and others with --skip-bad")
            bad.update(dict.fromkeys(message.rpartition("; ")[0] for message in wrong.values()))
            whole = np.array([position not in wrong for position in range(len(rows))])
            pixels = pixels[whole] if wrong else pixels
            digest.update(pixels.data)
            self._checks[filled : filled + len(pixels)] = [zlib.crc32(view) for view in pixels]
            if not self.streamed:
                self._kept[filled : filled + len(pixels)] = pixels
            good.append(rows[whole])
            filled += len(pixels)
            if len(pixels):
                yield pixels
        if not filled:
            raise DataError(f"no image can be read: {len(bad)} are bad, first: {next(iter(bad))}; give others")
        digest.update(str((filled, self.size, self.size, 3)).encode())
        self._kept, self._checks = self._kept[:filled], self._checks[:filled]
        self._fingerprint, self.bad = f"sha256:{digest.hexdigest()}", tuple(bad)
        self._rows = np.concatenate(good)
        if not self.streamed:
            self.close()

    def fetch(self, rows: NDArray[np.int64]) -> Pixels:
        """Views `rows` (int64 (B,), each 0 to len - 1, in any order, also repeated) as uint8 (B, S, S, 3).

        Raises IndexError past the end, and what `stream` raises.
        """
        return next(self.stream([rows]))

    def stream(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[Pixels]:
        """`fetch` of one array of rows after another; workers make the next ones while the caller is busy.

        `batches` is read a little ahead, so it must not depend on what the caller does with the views. Raises
        IndexError past the end, DataError if a picture changed after the scan or a worker is killed.
        """
        kept = self._scanned()
        if not self.streamed:
            yield from (self._kept[rows] for rows in batches)
            return
        waiting: list[NDArray[np.int64]] = []

        def noted() -> Iterator[NDArray[np.int64]]:
            for rows in batches:
                waiting.append(rows)
                yield kept[rows]

        for pixels, wrong in self._make(noted()):
            rows = waiting.pop(0)
            if wrong:
                raise DataError(next(iter(wrong.values())))
            for view, row in zip(pixels, rows, strict=True):
                if zlib.crc32(view) != self._checks[row]:
                    raise DataError(f"image changed while it was in use: {self._set.name(int(kept[row]))}; start again")
            yield pixels

    def close(self) -> None:
        """Ends the worker processes."""
        self._workers.close()

    def __enter__(self) -> Views:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scanned(self) -> NDArray[np.int64]:
        if self._rows is None:
            raise RuntimeError("views are known only after the scan")
        return self._rows

    def _make(self, batches: Iterable[NDArray[np.int64]]) -> Iterator[tuple[Pixels, dict[int, str]]]:
        """For each array of rows: the pixels, and, by position in ascending order, what is wrong with bad pictures."""
        for made in self._workers.in_order(self._pieces(rows) for rows in batches):
            yield _joined(made, self.size)

    def _pieces(self, rows: NDArray[np.int64]) -> list[ViewTask]:
        return [self._set.piece(part.tolist()) for part in _batches(rows, _PER_PIECE)]


def _batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _joined(made: list[Made], size: int) -> tuple[Pixels, dict[int, str]]:
    bad: dict[int, str] = {}
    first = 0
    for part in made:
        bad |= {first + position: reason for position, reason in part.bad.items()}
        first += len(part.pixels)
    return np.concatenate([np.empty((0, size, size, 3), np.uint8), *(part.pixels for part in made)]), bad
