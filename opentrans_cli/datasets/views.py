"""Views: fixed square images for distillation, in memory or made again for every batch, always the same bits."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.view_sets import Made, Piece, ViewSet
from opentrans_cli.datasets.workers import Workers
from opentrans_cli.errors import DataError

Pixels = NDArray[np.uint8]
"""Views (B, S, S, 3), RGB."""

IN_MEMORY = 2 << 30
"""Bytes up to which views are kept; more are made again for every batch."""

_PER_PIECE = 8  # views a worker makes at a time; even, so that both views of a picture come from one decoding


class Views:
    """The views of `view_set` by row: `scan` goes through all of them once, then `fetch` and `stream` give any.

    The rows are those of the good pictures, in the set's order. Up to `in_memory` bytes are kept after the scan;
    a larger set is made again, by `workers` processes, whenever it is asked for. Neither changes a bit of any view: a
    picture that does not give the pixels it gave in the scan is an error. Use it as a context manager, or `close` it.
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
            bad.update(dict.fromkeys(map(_without_remedy, wrong.values())))
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
        """For each array of rows of the set its pixels, and by position, in order, what is wrong with the bad ones."""
        for made in self._workers.in_order(self._pieces(rows) for rows in batches):
            yield _joined(made, self.size)

    def _pieces(self, rows: NDArray[np.int64]) -> list[Piece]:
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


def _without_remedy(message: str) -> str:
    return message.rpartition("; ")[0]
