"""Signals and full disks in the middle of a run: what waits, what ends at once, and what is told."""

from __future__ import annotations

import errno
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli import signals
from opentrans_cli.errors import BundleError, OutputError, RunStopped
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.reporter import SILENT
from opentrans_cli.signals import Terminated, answered, held_back
from opentrans_cli.steps.run_files import check_state, resumable, state_path, state_to_resume

INT, TERM = signal.SIGINT, signal.SIGTERM
HUP = getattr(signal, "SIGHUP", TERM)


def keep(out: Path, after: str = "step 3 of 8") -> None:
    write_tensors(state_path(out), {"a": np.zeros(3)}, {"meta": {"after": after}})


def ended(out: Path, body: Callable[[], None]) -> BaseException:
    with pytest.raises(BaseException) as found, resumable(out):
        body()
    return found.value


@pytest.mark.parametrize("number", [INT, TERM, HUP])
def test_a_signal_waits_to_the_end_of_the_block_that_holds_it_back(number: int) -> None:
    before, passed = signal.getsignal(number), []
    with pytest.raises(KeyboardInterrupt) as found, answered(), held_back() as told:
        assert not told()
        signal.raise_signal(number)
        passed.append(told())
    assert passed == [True] and isinstance(found.value, Terminated) == (number != INT)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once_but_the_same_one_passed_on_twice_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = []
    for doubled in (10.0, -1.0):
        monkeypatch.setattr(signals, "_DOUBLED", doubled)
        with pytest.raises(KeyboardInterrupt), held_back():
            signal.raise_signal(INT)
            signal.raise_signal(INT)
            reached.append(doubled)
    assert reached == [10.0]


def test_what_is_ignored_stays_ignored_and_other_threads_hear_nothing() -> None:
    before = signal.signal(HUP, signal.SIG_IGN)  # as nohup does
    try:
        with answered(), held_back() as told:
            signal.raise_signal(HUP)
            assert not told()
    finally:
        signal.signal(HUP, before)
    found: list[bool] = []

    def elsewhere() -> None:
        with answered(), held_back() as told:
            found.append(told())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_signal_in_a_finalizer_is_not_lost() -> None:
    class Signalled:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            signal.raise_signal(self.number)

    for number, error in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)):
        with pytest.raises(error), answered():
            Signalled(number)  # ends here, and Python drops what __del__ raises
            threading.Event().wait(10)
            pytest.fail("the signal was lost")


def test_after_ctrl_c_and_signals_the_state_on_the_disk_is_told(tmp_path: Path) -> None:
    out = tmp_path / "b"
    nothing = ended(out, lambda: signal.raise_signal(TERM))
    assert isinstance(nothing, RunStopped) and nothing.after is None and nothing.exit_code == 75
    assert nothing.told("x y") == "interrupted before anything was kept; start again with: x y"
    keep(out)
    for number, kind in ((TERM, RunStopped), (HUP, RunStopped), (INT, KeyboardInterrupt)):
        error = ended(out, lambda number=number: signal.raise_signal(number))  # type: ignore[misc]
        assert type(error) is kind
        told = error if isinstance(error, RunStopped) else error.__cause__
        assert isinstance(told, RunStopped) and told.state == state_path(out)
        assert told.told("x --resume") == "interrupted after step 3 of 8; go on with: x --resume"


def test_a_full_disk_tells_what_did_not_fit_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, arrays = tmp_path / "b", {"a": np.zeros(1000), "b": np.zeros(500)}
    keep(out)
    old = state_path(out).read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    error = ended(out, lambda: write_tensors(state_path(out), arrays) and None)
    assert isinstance(error, RunStopped) and error.exit_code == 1 and error.full
    needed = int(str(error).partition("(")[2].partition(" bytes")[0].replace(",", ""))
    monkeypatch.undo()
    assert write_tensors(tmp_path / "whole", arrays).bytes == needed
    assert "; interrupted after step 3 of 8; free some space and go on with: x" in error.told("x")
    assert state_path(out).read_bytes() == old and {p.name for p in tmp_path.iterdir()} == {
        state_path(out).name,
        "whole",
    }


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    def fail() -> None:
        raise BundleError("damaged: it; do that")

    assert type(ended(tmp_path / "b", fail)) is BundleError


def test_no_signal_comes_between_result_and_state(tmp_path: Path) -> None:
    out = tmp_path / "b"
    keep(out)
    with pytest.raises(RunStopped) as found, resumable(out) as finishing, finishing():
        signal.raise_signal(TERM)
        out.mkdir()
        state_path(out).unlink()
    assert found.value.told("x") == f"interrupted when everything was written: {out}"


def test_a_part_of_a_run_tells_the_state_of_the_whole(tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "whole" / "part"
    whole.mkdir()
    keep(whole, "2 of 7 parts")
    keep(part)
    for number in (TERM, INT):
        with pytest.raises((RunStopped, KeyboardInterrupt)) as found, resumable(whole), resumable(part):
            signal.raise_signal(number)
        told = found.value if isinstance(found.value, RunStopped) else found.value.__cause__
        assert isinstance(told, RunStopped) and told.after == "2 of 7 parts"


def test_starting_anew_over_a_state_needs_force(tmp_path: Path) -> None:
    out = tmp_path / "b"
    check_state(out, resume=False, force=False)
    keep(out)
    with pytest.raises(OutputError, match=r"a state of step 3 of 8 lies at .*; go on with --resume, or .*--force"):
        check_state(out, resume=False, force=False)
    for resume, force in ((True, False), (False, True), (True, True)):
        check_state(out, resume=resume, force=force)
    assert state_to_resume(out, resume=True, reporter=SILENT) == state_path(out)
    assert state_to_resume(out, resume=False, reporter=SILENT) is None and not state_path(out).exists()
