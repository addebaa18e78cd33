"""Files that a run writes next to its bundle: its state and the towers of rounds in hidden files, and its log.

The state is what an interrupted run goes on from. All verbs that have one keep it by the same rules: nothing that a run
has done is lost on Ctrl-C, SIGTERM or a full disk; the same command refuses to start anew where a state is, unless
`--force` says so; and the state goes in the moment when the result is there.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path

from opentrans_cli.errors import OpentransError, OptionError, OutputError, RunStopped
from opentrans_cli.files.atomic import disk_full, left_behind
from opentrans_cli.files.tensorfile import read_metadata
from opentrans_cli.reporter import Reporter
from opentrans_cli.signals import Terminated, answered, held_back

Finishing = Callable[[], AbstractContextManager[None]]


def state_path(out: Path) -> Path:
    """The state file that belongs to the target `out`."""
    target = Path(os.path.abspath(out))  # "." has no file name
    return target.with_name(f".{target.name}.resume.safetensors")


def share_path(out: Path, rank: int) -> Path:
    """The state file of process `rank`, from 1, of several that keep what each has done of a run with the target `out`;
    that of process 0 is `state_path`.
    """
    state = state_path(out)
    return state.with_name(f"{state.stem}.process-{rank:04d}.safetensors")


def kept_states(out: Path) -> list[Path]:
    """The state files that are there for the target `out`, by process."""
    state = state_path(out)
    shares = sorted(state.parent.glob(f"{glob.escape(state.stem)}.process-*.safetensors"))
    return [*([state] if state.exists() else []), *shares]


def round_path(out: Path, number: int) -> Path:
    """The file with the tower of the target `out` after round `number`, from 1, until the bundle contains it."""
    state = state_path(out)
    return state.with_name(f"{state.stem}.round-{number:03d}.safetensors")


def log_beside(out: Path) -> Path:
    """The log of JSON lines that belongs to the target `out`, if no other was named."""
    target = Path(os.path.abspath(out))
    return target.with_name(f"{target.name}.log.jsonl")


def check_places(out: Path, places: Mapping[str, Path | None]) -> None:
    """Raise OptionError if one of `places`, by the flag that sets it, conflicts with the bundle or its state."""
    target, state = Path(os.path.abspath(out)), state_path(out)
    for flag, place in places.items():
        there = None if place is None else Path(os.path.abspath(place))
        if there is not None and (there in (target, state) or target in there.parents):
            raise OptionError(f"the bundle and its state are to lie there: {flag} {place}; choose another place")


def check_state(out: Path, *, resume: bool, force: bool) -> None:
    """Raise OutputError if starting anew would lose what an interrupted run has kept for the target `out`."""
    for state in () if resume or force else kept_states(out)[:1]:
        raise OutputError(
            f"a state of {kept_by(state) or 'an interrupted run'} lies at {state}; go on with --resume, or start "
            "anew with --force"
        )


def state_to_resume(out: Path, *, resume: bool, reporter: Reporter) -> Path | None:
    """The state to go on from; None if there is none, with a message if it was asked for.

    Without `resume` a state is removed; see `check_state`. So are incomplete files that killed runs left next to `out`,
    because they use disk space that is needed.
    """
    return next(iter(states_to_resume(out, resume=resume, reporter=reporter)), None)


def states_to_resume(out: Path, *, resume: bool, reporter: Reporter) -> list[Path]:
    """The same for a run whose processes keep a state each; none if there is none."""
    _sweep(out)
    if not resume:
        discard_state(out)
    found = kept_states(out)
    if resume and not found:
        reporter.say(f"nothing to resume at {state_path(out)}: starting at the beginning")
    return found


def kept_by(state: Path) -> str | None:
    """What the file of a state keeps, such as "step 12 of 32"; None if there is no such file, or it is damaged."""
    try:
        return str(read_metadata(state)["meta"]["after"])
    except (OpentransError, KeyError, TypeError):
        return None


@contextmanager
def resumable(out: Path) -> Iterator[Finishing]:
    """Around all that a run with the target `out` does, so that whatever ends it early says what is kept.

    Inside, SIGTERM and SIGHUP end the run as Ctrl-C does. Raises RunStopped after a signal and when the disk is full;
    after Ctrl-C KeyboardInterrupt, with a RunStopped as its cause. What it yields goes around writing the result and
    removing the state: no signal comes between the two.
    """
    written = False

    @contextmanager
    def finishing() -> Iterator[None]:
        nonlocal written
        with held_back():
            yield
            written = True

    try:
        with answered():
            yield finishing
    except (KeyboardInterrupt, OpentransError, OSError) as error:
        stopped = _stopped(error, out, written=written)
        if stopped is None or stopped is error:
            raise
        if isinstance(error, KeyboardInterrupt) and not isinstance(error, Terminated):
            raise KeyboardInterrupt(str(stopped)) from stopped
        raise stopped from error


def _stopped(error: BaseException, out: Path, *, written: bool) -> RunStopped | None:
    """What to tell of a run that `error` ended; None if it is an error like any other."""
    told, state = error if isinstance(error, RunStopped) else error.__cause__, state_path(out)
    if isinstance(told, RunStopped):
        reason, full = told.reason, told.full
        if told.state == state:
            return told
    else:
        full = disk_full(error)
        if not (full or isinstance(error, KeyboardInterrupt)):
            return None
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.strerror}: {error.filename}"
        else:
            reason = str(error).partition(";")[0]  # what is wrong, without the next move
    if written:
        return RunStopped(reason, written=out)
    return RunStopped(reason, after=kept_by(state), state=state, full=full)


def _sweep(out: Path) -> None:
    state = state_path(out)
    numbered = chain.from_iterable(
        state.parent.glob(f".{glob.escape(state.stem)}.{kind}-*.tmp") for kind in ("round", "process")
    )
    of_numbers = {half.with_name(half.name[1:].rsplit(".", 2)[0]) for half in numbered}
    for written in (Path(os.path.abspath(out)), state, log_beside(out), *of_numbers):
        remove_halves(left_behind(written))


def remove_halves(halves: Iterable[Path]) -> None:
    """Remove temporary files and folders that killed processes left."""
    for path in halves:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def discard_state(out: Path) -> None:
    """Remove the state, of all processes, once the result is written."""
    for state in kept_states(out):
        state.unlink(missing_ok=True)
