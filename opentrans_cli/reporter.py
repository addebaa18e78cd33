"""How a step reports its progress; the command line shows this on stderr, and by default it goes to a logger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[str], None]
"""Called once per unit of work with a short status such as "loss 0.123"."""


class Reporter(Protocol):
    """Receives messages and progress."""

    def say(self, text: str) -> None:
        """One line a user should read."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        """A progress bar over `total` units; an interrupted run has already done the first `done`."""
        yield lambda status: None


class Silent:
    """A reporter that shows nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda status: None


class Logged(Silent):
    """The default reporter of a verb: lines go to the logger "opentrans_cli" at level INFO."""

    def say(self, text: str) -> None:
        """Log the line."""
        logging.getLogger("opentrans_cli").info(text)


SILENT, LOGGED = Silent(), Logged()
