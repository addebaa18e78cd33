"""Where output goes: results to stdout, talk and progress to stderr.

A result is printed in one of three ways. With --json: one JSON document. On a terminal: a table for people. Into a
pipe: exactly the path that was written, so that `B=$(opentrans prune ...)` works; a command that writes nothing prints
its table there too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Show = Callable[["Console"], None]
Advance = Callable[[str], None]

_UNBROKEN = 400  # columns; a row about a tensor of FC-CLIP takes two hundred


def stderr_console() -> Console:
    """A console for talk."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    """A console on `stream`; into a pipe or file it is wide enough that no name or digest is broken."""
    from rich.console import Console

    return Console(file=stream, highlight=False, width=None if stream.isatty() else _UNBROKEN)


def plain_table(title: str, *columns: str, header: bool = True) -> Table:
    """A table without frame lines; a column name that starts with ">" is set to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_header=header, pad_edge=False)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def speaks() -> bool:
    """Whether this process talks: of several that torchrun started, the first alone does."""
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
    """Talk and progress of a step on stderr."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet or not speaks()

    def say(self, text: str) -> None:
        """One line; nothing with --quiet."""
        if not self.quiet:
            typer.echo(text, err=True)

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Advance]:
        """A live bar on a terminal, else one line when it is done."""
        if self.quiet:
            yield lambda status: None
            return
        console = stderr_console()
        if not console.is_terminal:
            with self._line(title, total) as advance:
                yield advance
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
        )
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(title, total=total, status="")
            yield lambda status: progress.update(task, advance=1, status=status)

    @contextmanager
    def _line(self, title: str, total: int) -> Iterator[Advance]:
        last = ""

        def advance(status: str) -> None:
            nonlocal last
            last = status

        yield advance
        self.say(f"{title}: {total} done{', ' + last if last else ''}")


class StepLines:
    """A log of JSON lines, appended to and flushed line by line; without a path it writes nowhere."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("a", encoding="utf-8") if path is not None and speaks() else None

    def write(self, entry: dict[str, Any]) -> None:
        """One line."""
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()

    def __enter__(self) -> StepLines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def human_bytes(count: int) -> str:
    """1234567 -> "1.2 MB" (powers of 1000)."""
    value, units = float(count), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def human_count(count: float) -> str:
    """1234567 -> "1.23 M" (powers of 1000)."""
    value, units = float(count), ["", " k", " M", " G", " T", " P"]
    while abs(value) >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g}{units[0]}"


def percent(value: float | None) -> str:
    """0.1234 -> "12.3"; None -> "-"."""
    return "-" if value is None else f"{100 * value:.1f}"
