"""kill -9 or Ctrl-C in the middle of a run: no bundle, no half of one, and --resume ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.steps.run_files import state_path

Content = Callable[[Path], dict[str, bytes]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")

PRUNE = (
    *("--images", "shapes", "--image-limit", "64", "--batch-size", "16", "--sparsity", "0.5"),
    *("--steps-per-round", "2", "--final-steps", "4", "--device", "cpu", "--quiet"),
)
FINETUNE = ("--steps", "130", "--batch-size", "2", "--crop", "32", "--limit", "4", "--device", "cpu", "--quiet")


def stop_once_there_is(state: Path, *command: object, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Starts the command line as a process of its own and sends it a signal as soon as `state` exists."""
    line = [sys.executable, "-m", "opentrans_cli", *map(str, command)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 600
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(how)
        written, told = process.communicate(timeout=600)
    finally:
        process.kill()
    assert state.exists(), f"no state, or already done: {told}"
    return subprocess.CompletedProcess(line, process.returncode, written, told)


@pytest.mark.parametrize("verb", ["prune", "finetune"])
def test_a_killed_run_leaves_its_state_alone_and_resumes_to_the_same_bytes(
    verb: str, tmp_path: Path, tiny_bundle: Path, run_cli: Any, content: Content
) -> None:
    command = ("prune", "tiny", *PRUNE) if verb == "prune" else ("finetune", tiny_bundle, *FINETUNE)
    out, whole = tmp_path / "killed" / "b", tmp_path / "whole" / "b"
    killed = stop_once_there_is(state_path(out), *command, "-o", out, how=signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    left = list(out.parent.iterdir())
    assert state_path(out) in left
    assert all(path.is_file() and ("b.resume.safetensors" in path.name or "b.log.jsonl" in path.name) for path in left)
    assert run_cli(*command, "-o", out, "--resume").exit_code == 0
    assert run_cli(*command, "-o", whole).exit_code == 0
    assert content(out) == content(whole)
    assert not state_path(out).exists()
    assert run_cli("verify", out).exit_code == 0


def test_ctrl_c_ends_with_130_without_a_traceback_and_keeps_the_state(tmp_path: Path) -> None:
    out = tmp_path / "b"
    ended = stop_once_there_is(state_path(out), "prune", "tiny", *PRUNE, "-o", out, how=signal.SIGINT)
    assert (ended.returncode, ended.stdout) == (130, "") and "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == [state_path(out)]
