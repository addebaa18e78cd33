"""Where an interrupted run leaves its state: one hidden file beside the bundle it was going to write."""

from __future__ import annotations

import os
from pathlib import Path

from opentrans_cli.steps.reporter import Reporter


def state_path(out: Path) -> Path:
    """The state file that belongs to the target `out`."""
    target = Path(os.path.abspath(out))  # "." has no name of its own
    return target.with_name(f".{target.name}.resume.safetensors")


def state_to_resume(out: Path, *, resume: bool, reporter: Reporter) -> Path | None:
    """The state to go on from: None if `resume` is off, or, said aloud, if there is no state."""
    state = state_path(out)
    if not resume:
        return None
    if not state.exists():
        reporter.say(f"nothing to resume at {state}: starting at the beginning")
        return None
    return state


def discard_state(out: Path) -> None:
    """Remove the state once the bundle is written."""
    state_path(out).unlink(missing_ok=True)
