"""Files that a run writes next to its bundle: its state and the towers of rounds in hidden files, and its log."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from opentrans_cli.errors import OptionError
from opentrans_cli.files.atomic import left_behind
from opentrans_cli.reporter import Reporter


def state_path(out: Path) -> Path:
    """The state file that belongs to the target `out`."""
    target = Path(os.path.abspath(out))  # "." has no file name
    return target.with_name(f".{target.name}.resume.safetensors")


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


def state_to_resume(out: Path, *, resume: bool, reporter: Reporter) -> Path | None:
    """The state to go on from; None if `resume` is off, or, with a message, if there is no state.

    Incomplete files that killed runs left next to `out` are removed, because they use disk space that is needed.
    """
    _sweep(out)
    state = state_path(out)
    if not resume:
        return None
    if not state.exists():
        reporter.say(f"nothing to resume at {state}: starting at the beginning")
        return None
    return state


def _sweep(out: Path) -> None:
    state = state_path(out)
    towers = state.parent.glob(f".{glob.escape(state.stem)}.round-*.tmp")
    of_rounds = {half.with_name(half.name[1:].rsplit(".", 2)[0]) for half in towers}
    for written in (Path(os.path.abspath(out)), state, log_beside(out), *of_rounds):
        for path in left_behind(written):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def discard_state(out: Path) -> None:
    """Remove the state once the bundle is written."""
    state_path(out).unlink(missing_ok=True)
