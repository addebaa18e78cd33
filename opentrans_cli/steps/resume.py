"""Where an interrupted run leaves its state: one hidden file beside the bundle it was going to write."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from opentrans_cli.steps.reporter import Reporter


def state_path(out: Path) -> Path:
    """The state file that belongs to the target `out`."""
    target = Path(os.path.abspath(out))  # "." has no name of its own
    return target.with_name(f".{target.name}.resume.safetensors")


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
    target = Path(os.path.abspath(out))
    names = "|".join(map(re.escape, (target.name, state_path(out).name, f"{target.name}.log.jsonl")))
    half = re.compile(rf"\.(?:{names})\.(\d+)-[0-9a-f]{{8}}\.tmp")  # as `temporary_beside` calls them
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        found = half.fullmatch(path.name)
        if found is None or _runs(int(found[1])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Whether there is such a process; on Windows, where asking would end it, always."""
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def discard_state(out: Path) -> None:
    """Remove the state once the bundle is written."""
    state_path(out).unlink(missing_ok=True)
