"""What a run leaves beside the bundle it is going to write: its state in one hidden file, and its log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from opentrans_cli.files.atomic import left_behind
from opentrans_cli.reporter import Reporter


def state_path(out: Path) -> Path:
    """The state file that belongs to the target `out`."""
    target = Path(os.path.abspath(out))  # "." has no name of its own
    return target.with_name(f".{target.name}.resume.safetensors")


def log_beside(out: Path) -> Path:
    """The log of JSON lines that belongs to the target `out`, where no other was named."""
    target = Path(os.path.abspath(out))
    return target.with_name(f"{target.name}.log.jsonl")


def state_to_resume(out: Path, *, resume: bool, reporter: Reporter) -> Path | None:
    """The state to go on from: None if `resume` is off, or, said aloud, if there is no state.

    What killed runs left half written beside `out` is removed, for it takes the room of what is written next.
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
    for written in (Path(os.path.abspath(out)), state_path(out), log_beside(out)):
        for path in left_behind(written):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def discard_state(out: Path) -> None:
    """Remove the state once the bundle is written."""
    state_path(out).unlink(missing_ok=True)
