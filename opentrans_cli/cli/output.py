"""Where output goes: results to stdout, messages and progress to stderr.

A result is printed in one of three ways. With --json: one JSON document. On a terminal: a table for people. Into a
pipe: exactly the path that was written, so that `B=$(opentrans prune ...)` works. A command that writes nothing prints
its table into a pipe too.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import typer

from opentrans_cli.files.figures import in_words
from opentrans_cli.reporter import Advance, Left

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from opentrans_cli.cli.progress import Bars

Show = Callable[["Console"], object]

LINE_EVERY = 60.0
"""Seconds between two lines of progress where no bar can be shown."""

_UNBROKEN = 400  # columns; a row about a tensor of FC-CLIP needs two hundred


class _Heard:
    """stderr, where nobody may listen any more: a pipe whose reader is gone, a closed terminal, a full disk.

    Talk that cannot be written must not end a run, least of all one that has still to save its state.
    """

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        # What waits in the buffer would fail once more when Python ends, and change the exit code.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(text: str, *, everywhere: bool = False) -> None:
    """Print one line on stderr; of several processes only the first does, unless `everywhere`."""
    if everywhere or speaks():
        typer.echo(text, file=cast(TextIO, _Heard()))


def stderr_console() -> Console:
    """A console for messages."""
    return _console(cast(TextIO, _Heard()))


def _console(stream: TextIO) -> Console:
    """A console on `stream`; for a pipe or file it is so wide that no name or digest is broken."""
    from rich.console import Console

    return Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBROKEN)


def plain_table(title: str, *columns: str, header: bool = True) -> Table:
    """A table without frame lines; a column whose name starts with ">" is aligned right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=header, pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def speaks() -> bool:
    """Whether this process prints messages; of several started by torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"


def emit(
    document: dict[str, Any], show: Show, *, as_json: bool, path: Path | str | None = None, quiet: bool = False
) -> None:
    """Print one result; `path` (or address) is what the command wrote, `show` prints the table for people."""
    if not speaks():
        return
    if as_json:
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
    elif path is None or sys.stdout.isatty():
        show(_console(sys.stdout))
    else:
        if not quiet:
            show(stderr_console())
        typer.echo(str(path))


class ConsoleReporter:
    """Messages and progress of a step on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet or not speaks()
        self._bars: Bars | None = None  # set while a bar is shown: a bar inside another bar is shown below it

    def say(self, text: str) -> None:
        """Print one line; nothing with --quiet."""
        if self.quiet:
            return
        if self._bars is not None:  # above the bars, which would be broken otherwise
            self._bars.console.print(text, markup=False, soft_wrap=True)
        else:
            tell(text)

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: Left | None = None) -> Iterator[Advance]:
        """A live bar on a terminal, else a line about every minute and one at the end.

        done: units that an interrupted run has already done. left: the time left of a longer run.
        """
        if self.quiet:
            yield lambda status: None
            return
        console = stderr_console()
        if not console.is_terminal:
            lines = _ProgressLines(title, total, done, left, self.say)
            yield lines.advance
            lines.finish()
            return
        with self._shown(console) as bars:
            task = bars.add_task(title, total=total, completed=done, status="", left=left, beside="")
            try:
                yield lambda status: bars.update(task, advance=1, status=status)
            finally:
                if bars.task_ids[0] != task:
                    bars.remove_task(task)

    @contextmanager
    def _shown(self, console: Console) -> Iterator[Bars]:
        from opentrans_cli.cli.progress import Bars

        if self._bars is not None:
            yield self._bars
            return
        with Bars(console) as self._bars:
            try:
                yield self._bars
            finally:
                self._bars = None


class _ProgressLines:
    """Progress where no bar can be shown, as in the log of a batch job: a line from time to time."""

    def __init__(self, title: str, total: int, done: int, left: Left | None, say: Callable[[str], None]) -> None:
        self._title, self._total, self._first, self._say = title, total, done, say
        self._left = left or self._own
        self._done, self._status = done, ""
        self._started = self._told = time.monotonic()

    def advance(self, status: str) -> None:
        """Count one more unit."""
        self._done, self._status = self._done + 1, status
        now = time.monotonic()
        if now - self._told >= LINE_EVERY and self._done < self._total:
            self._told = now
            seconds = self._left(self._done)
            left = "" if seconds is None else f"{in_words(seconds)} left"
            self._say(f"{self._title}: {self._done} of {self._total}, {', '.join(filter(None, (left, status)))}")

    def _own(self, done: float) -> float:
        return (time.monotonic() - self._started) / (done - self._first) * (self._total - done)

    def finish(self) -> None:
        """Print the last line."""
        self._say(f"{self._title}: {self._done} done{', ' + self._status if self._status else ''}")
