"""How a step reports its progress; the command line shows this on stderr, and by default it goes to a logger."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[str], None]
"""Called once per unit of work with a short status such as "loss 0.123"."""


Left = Callable[[float], float | None]
"""Seconds that are left of a run after so many units of a bar; None while nobody can say."""


class Reporter(Protocol):
    """Receives messages and progress."""

    def say(self, text: str) -> None:
        """One line a user should read."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: Left | None = None) -> Iterator[Advance]:
        """A progress bar over `total` units; an interrupted run has already done the first `done`.

        left: the time left of a run of which this bar is a part; None: that of the bar itself.
        """
        yield lambda status: None


class Silent:
    """A reporter that shows nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: Left | None = None) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda status: None


class Logged(Silent):
    """The default reporter of a verb: lines go to the logger "opentrans_cli" at level INFO."""

    def say(self, text: str) -> None:
        """Log the line."""
        logging.getLogger("opentrans_cli").info(text)


class Parts:
    """The reporter of a run of several parts: bars are called "2 of 7 · subnet · distilling", and the time left is that
    of the whole run. Lines that the parts say are left out, since a bar shows where the run is.
    """

    def __init__(self, reporter: Reporter, work: Mapping[str, Mapping[str, float]]) -> None:
        """work: by title of a part, in order, and by title of a bar in it: how long it takes, in any unit."""
        self._reporter, self._work = reporter, work
        self._part, self._done = "", 0.0
        self._began: float | None = None  # when the first part that is not skipped begins
        self._skipped = 0.0

    def skip(self, title: str) -> None:
        """An earlier process has done the part `title`."""
        self._skipped += sum(self._work[title].values())

    @contextmanager
    def next(self, title: str) -> Iterator[None]:
        """Inside, the part `title` runs."""
        if self._began is None:
            self._began = time.monotonic()
        self._part, done, skipped = title, self._done, self._skipped
        yield
        self._done = done + sum(self._work[title].values()) - (self._skipped - skipped)

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: Left | None = None) -> Iterator[Advance]:
        """A bar of the part at hand."""
        number, unit = list(self._work).index(self._part) + 1, self._work[self._part].get(title, 0.0) / max(1, total)
        before = self._done
        self._skipped += unit * done
        named = f"{number} of {len(self._work)} · {self._part} · {title}"

        def whole(units: float) -> float | None:
            return self._left(before + unit * (units - done))

        with self._reporter.bar(named, total, done=done, left=whole) as advance:
            yield advance
        self._done = before + unit * (total - done)

    def _left(self, done: float) -> float | None:
        """Seconds, if the rest goes on as what is `done`."""
        assert self._began is not None
        whole = sum(sum(bars.values()) for bars in self._work.values()) - self._skipped
        return None if done <= 0 else (time.monotonic() - self._began) * max(0.0, whole - done) / done


SILENT, LOGGED = Silent(), Logged()
