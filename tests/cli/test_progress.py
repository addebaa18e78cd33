"""Progress: bars that stay within the terminal, lines where there is none."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console, Group

from opentrans_cli.cli import output
from opentrans_cli.cli.output import ConsoleReporter
from opentrans_cli.cli.progress import Bars

SHORT = "3.23 steps/s, loss 1.23"
TERMS = "loss 2.838 (classes 1.23, mask 0.123, dice 1.23, kd 0.123, grounding 0.123)"
LONG = f"3.23 steps/s, {TERMS}, mIoU 34.5"


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


@pytest.mark.parametrize(("total", "status"), [(400, SHORT), (400, LONG), (40_000, SHORT), (1_000_000, LONG)])
def test_count_and_the_whole_status_are_within_the_width(terminal: Console, total: int, status: str) -> None:
    bars = Bars(terminal)
    bars.add_task("fine-tuning", total=total, completed=total // 2, status=status)
    lines = drawn(bars)
    assert all(len(line) <= 80 for line in lines)
    assert f"{total // 2}/{total}" in lines[0] and lines[0].startswith("fine-tuning ")
    assert " ".join(" ".join(lines).split()).endswith(status)
    assert (status in lines[0]) == (total == 400 and status == SHORT)


def test_a_bar_inside_a_bar_stands_below_it_and_goes_when_it_is_done(terminal: Console) -> None:
    reporter = ConsoleReporter(quiet=False)
    with reporter.bar("fine-tuning", 10, done=4) as advance:
        advance("loss 1")
        bars = reporter._bars
        assert bars is not None and "5/10" in drawn(bars)[0]
        with reporter.bar("spectra", 2) as inner:
            inner("conv1")
            assert [line.split()[0] for line in drawn(bars)] == ["fine-tuning", "spectra"]
        assert [line.split()[0] for line in drawn(bars)] == ["fine-tuning"]
        advance("loss 0.5")
        assert "6/10" in drawn(bars)[0] and drawn(bars)[0].endswith("loss 0.5")
    assert reporter._bars is None
    with reporter.bar("scoring", 1) as advance:
        advance("")


def test_talk_under_a_bar_is_a_line_of_its_own(terminal: Console) -> None:
    reporter = ConsoleReporter(quiet=False)
    with reporter.bar("fine-tuning", 10) as advance:
        advance("loss 1")
        reporter.say("analyzing [first]")
    assert isinstance(terminal.file, io.StringIO)
    lines = terminal.file.getvalue().replace("\r", "\n").splitlines()
    assert any(line.removeprefix("\x1b[2K") == "analyzing [first]" for line in lines)


def test_an_error_in_a_bar_leaves_none_behind(terminal: Console) -> None:
    reporter = ConsoleReporter(quiet=False)
    with pytest.raises(KeyError), reporter.bar("outer", 2), reporter.bar("inner", 2):
        raise KeyError
    assert reporter._bars is None


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
        "fine-tuning: 13 of 20, loss 2, 0:02:55 left",
        "fine-tuning: 16 of 20, loss 5, 0:01:40 left",
        "fine-tuning: 19 of 20, loss 8, 0:00:25 left",
        "fine-tuning: 20 done, loss 9",
    ]


def test_a_short_job_and_a_quiet_one_say_no_more_than_before(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, wanted in ((False, "scoring: 2 done\n"), (True, "")):
        with ConsoleReporter(quiet=quiet).bar("scoring", 2) as advance:
            advance("")
            advance("")
        found: Any = capsys.readouterr()
        assert (found.out, found.err) == ("", wanted)
