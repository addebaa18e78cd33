"""How a step talks while it works; the command line shows it on stderr, the default says nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[str], None]
"""Called once per unit of work with a short status such as "loss 0.123"."""


class Reporter(Protocol):
    """Receives talk and progress."""

    def say(self, text: str) -> None:
        """One line a user should read."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        """A progress bar over `total` units, `done` of which an interrupted run has done already."""
        yield lambda status: None


class Silent:
    """The reporter of library users who did not ask for talk."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda status: None


class Logged(Silent):
    """The reporter of a verb that is given none: lines go to the logger "opentrans_cli", level INFO."""

    def say(self, text: str) -> None:
        """Log the line."""
        logging.getLogger("opentrans_cli").info(text)


SILENT, LOGGED = Silent(), Logged()
