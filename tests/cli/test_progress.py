"""Progress: bars that stay within the terminal, lines where there is none."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, Group

from opentrans_cli import reporter
from opentrans_cli.cli import output
from opentrans_cli.cli.output import ConsoleReporter
from opentrans_cli.cli.progress import Bars
from opentrans_cli.reporter import Parts, Silent

FIELDS: dict[str, Any] = {"left": lambda units: 100.0, "beside": ""}
TERMS = "loss 2.838 (classes 1.23, mask 0.123, dice 1.23, kd 0.123, grounding 0.123)"
STATUS = f"round 8 of 22, {TERMS}, mIoU 34.5, 3.23 steps/s"
FIELDS["status"] = STATUS


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A terminal of 80 columns in place of stderr."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    monkeypatch.setattr(output, "stderr_console", lambda: console)
    return console


def drawn(bars: Bars) -> list[str]:
    page = Console(file=io.StringIO(), width=80, color_system=None)
    page.print(Group(*bars.get_renderables()))
    assert isinstance(page.file, io.StringIO)
    return [line.rstrip() for line in page.file.getvalue().splitlines()]


@pytest.mark.parametrize("total", [400, 40_000, 1_000_000])
def test_a_bar_is_one_line_with_what_fits_of_its_status(terminal: Console, total: int) -> None:
    for columns in range(20, 200, 7):
        terminal.width = columns
        bars = Bars(terminal)
        bars.add_task("2 of 7 · subnet · distilling", total=total, completed=total // 2, **FIELDS)
        page = Console(file=io.StringIO(), width=columns, color_system=None)
        page.print(Group(*bars.get_renderables()))
        assert isinstance(page.file, io.StringIO)
        (line,) = page.file.getvalue().splitlines()
        assert len(line) <= columns and line.startswith("2 of 7 · subnet"[: columns - 10])
        assert f"{total // 2}/{total}" in line or columns < 63
        assert line.endswith(STATUS) or columns < 190
        assert "(" not in line or TERMS in line


def test_at_80_columns_the_whole_run_is_one_line(terminal: Console) -> None:
    bars = Bars(terminal)
    bars.add_task("2 of 7 · subnet · distilling", total=352, completed=137, **FIELDS)
    (line,) = drawn(bars)
    assert re.fullmatch(r"2 of 7 · subnet · distilling ━{4,} +137/352 · 2 min left · round 8 of 22", line)
    bars.update(bars.task_ids[0], completed=352)
    (line,) = drawn(bars)
    assert re.fullmatch(r".*352/352 · in \d s · round 8 of 22(, .*)?", line)


def test_the_time_left_is_that_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(reporter, "time", SimpleNamespace(monotonic=lambda: clock.now))
    heard: list[tuple[str, float | None]] = []

    class Listener(Silent):
        @contextmanager
        def bar(self, title: str, total: int, *, done: int = 0, left: Any = None) -> Iterator[Any]:
            units = done

            def advance(status: str) -> None:
                nonlocal units
                units += 1
                heard.append((title, left(units)))

            yield advance

    parts = Parts(Listener(), {"one": {"train": 4}, "two": {"train": 2, "score": 2}, "three": {"train": 8}})
    parts.skip("one")
    with parts.next("two"):
        for title in ("look", "train", "score"):
            with parts.bar(title, 2) as advance:
                for _ in range(2):
                    clock.now += 0 if title == "look" else 1
                    advance("")
    with parts.next("three"), parts.bar("train", 4, done=2) as advance:
        clock.now += 2
        advance("")
    assert heard == [
        ("2 of 3 · two · look", None),
        ("2 of 3 · two · look", None),
        ("2 of 3 · two · train", 11),
        ("2 of 3 · two · train", 10),
        ("2 of 3 · two · score", 9),
        ("2 of 3 · two · score", 8),
        ("3 of 3 · three · train", 2),
    ]


def test_a_bar_inside_a_bar_stands_below_it_and_goes_when_it_is_done(terminal: Console) -> None:
    console = ConsoleReporter(quiet=False)
    with console.bar("fine-tuning", 10, done=4) as advance:
        advance("loss 1")
        bars = console._bars
        assert bars is not None and "5/10" in drawn(bars)[0]
        with console.bar("spectra", 2) as inner:
            inner("conv1")
            assert [line.split()[0] for line in drawn(bars)] == ["fine-tuning", "spectra"]
        assert [line.split()[0] for line in drawn(bars)] == ["fine-tuning"]
        advance("loss 0.5")
        assert "6/10" in drawn(bars)[0] and drawn(bars)[0].endswith("loss 0.5")
    assert console._bars is None
    with console.bar("scoring", 1) as advance:
        advance("")


def test_talk_under_a_bar_is_a_line_of_its_own(terminal: Console) -> None:
    console = ConsoleReporter(quiet=False)
    with console.bar("fine-tuning", 10) as advance:
        advance("loss 1")
        console.say("analyzing [first]")
    assert isinstance(terminal.file, io.StringIO)
    lines = terminal.file.getvalue().replace("\r", "\n").splitlines()
    assert any(line.removeprefix("\x1b[2K") == "analyzing [first]" for line in lines)


def test_an_error_in_a_bar_leaves_none_behind(terminal: Console) -> None:
    console = ConsoleReporter(quiet=False)
    with pytest.raises(KeyError), console.bar("outer", 2), console.bar("inner", 2):
        raise KeyError
    assert console._bars is None


def test_talk_that_nobody_hears_any_more_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when `2>&1 | tee log` ends on the Ctrl-C that a run needs time for, or a terminal is closed."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(output.sys, "stderr", stream)
        console = ConsoleReporter(quiet=False)
        for _ in range(2):
            console.say("a line")
        with console.bar("fine-tuning", 1) as advance:
            advance("loss 1")


def test_without_a_terminal_a_line_comes_about_every_minute_and_one_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(output, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with ConsoleReporter(quiet=False).bar("fine-tuning", 20, done=10) as advance:
        for number in range(10):
            clock.now += 25.0
            advance(f"loss {number}")
    assert capsys.readouterr().err.splitlines() == [
        "fine-tuning: 13 of 20, 3 min left, loss 2",
        "fine-tuning: 16 of 20, 2 min left, loss 5",
        "fine-tuning: 19 of 20, 25 s left, loss 8",
        "fine-tuning: 20 done, loss 9",
    ]


def test_a_short_job_and_a_quiet_one_say_no_more_than_before(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, wanted in ((False, "scoring: 2 done\n"), (True, "")):
        with ConsoleReporter(quiet=quiet).bar("scoring", 2) as advance:
            advance("")
            advance("")
        found: Any = capsys.readouterr()
        assert (found.out, found.err) == ("", wanted)
