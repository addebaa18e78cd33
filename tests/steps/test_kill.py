"""prune and finetune as processes of their own: killed anywhere or told to stop, they end in the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.steps.run_files import log_beside, state_path
from opentrans_cli.training.state_file import load_meta

Content = Callable[[Path], dict[str, bytes]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")

PATIENCE = 600.0  # seconds until a process is given up
PRUNE: tuple[Any, ...] = (
    *("prune", "tiny", "--images", "shapes", "--image-limit", 32, "--batch-size", 8, "--sparsity", 0.5),
    *("--steps-per-round", 2, "--final-steps", 20, "--keep-rounds", "weights", "--device", "cpu", "--quiet"),
    *("--score-images", 16, "--save-every", 1),
)  # seven rounds, 32 steps
FINETUNE: tuple[Any, ...] = (
    *("--steps", 40, "--batch-size", 2, "--crop", 32, "--limit", 4, "--device", "cpu", "--save-every", 1, "--quiet"),
)
CACHED = (
    *("--warmup-steps", 6, "--freeze-prefix", "--prefix-end", "layer1.0", "--views", 2, "--ema", 0.9),
    *("--kd-weight", 0.5, "--optimizer", "sgd", "--momentum", 0.9, "--lr", 0.01),
)
ADAMW = ("--warmup-steps", 3, "--views", 3, "--accumulate", 2, "--ema", 0.5, "--eval-every", 5, "--eval-limit", 2)


SLOW_DISK = """
import os, time
flush = os.fsync
def fsync(descriptor):
    time.sleep(0.04)
    flush(descriptor)
os.fsync = fsync
"""


@pytest.fixture
def slow_disk(tmp_path: Path) -> dict[str, str]:
    """An environment in which files stay half written long enough to be seen so."""
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW_DISK)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def start(environment: dict[str, str], *command: object) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "opentrans_cli", *map(str, command)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def steps_in(log: Path) -> list[int]:
    """The steps of the whole lines of a log."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return [entry["step"] for entry in map(json.loads, lines) if entry["event"] == "step"]


def lines_of_steps(log: Path) -> int:
    return log.read_bytes().count(b'{"event": "step"') if log.exists() else 0


def being_written(out: Path) -> set[str]:
    """States, bundles and logs that are half on the disk."""
    return {path.name for path in out.parent.iterdir() if path.name.endswith(".tmp")}


def kill_at(moment: Callable[[float], bool], process: subprocess.Popen[str]) -> bool:
    """kill -9 once `moment(seconds)` is true; False if the process came to its end before that."""
    begun = time.monotonic()
    try:
        while process.poll() is None and time.monotonic() < begun + PATIENCE:
            if moment(time.monotonic() - begun):
                process.kill()
            else:
                time.sleep(0.002)
        _, told = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode in (0, -signal.SIGKILL), told
    return process.returncode != 0


def moments(out: Path, log: Path, draw: random.Random) -> list[Callable[[], Callable[[float], bool]]]:
    """Moments of ten kinds and their random delays, in a random order: makers, called when a process starts."""

    def after_steps(more: int, delay: float) -> Callable[[], Callable[[float], bool]]:
        def make() -> Callable[[float], bool]:
            reached, first = lines_of_steps(log), [float("inf")]

            def moment(seconds: float) -> bool:
                if lines_of_steps(log) >= reached + more:
                    first[0] = min(first[0], seconds)
                return seconds >= first[0] + delay

            return moment

        return make

    def while_writing(nth: int) -> Callable[[], Callable[[float], bool]]:
        def make() -> Callable[[float], bool]:
            left, seen = being_written(out), set[str]()

            def moment(seconds: float) -> bool:
                now = being_written(out) - left
                seen.update(now)
                return bool(now) and len(seen) >= nth

            return moment

        return make

    def after_seconds(delay: float) -> Callable[[], Callable[[float], bool]]:
        return lambda: lambda seconds: seconds >= delay

    found = [after_seconds(draw.uniform(0, 4)) for _ in range(2)]
    found += [after_steps(draw.randint(1, 2), draw.uniform(0, 0.1)) for _ in range(4)]
    found += [while_writing(draw.randint(1, 2)) for _ in range(4)]
    draw.shuffle(found)
    return found


def check_left(out: Path) -> None:
    """What a kill leaves: no bundle, and a state that is whole if there is one."""
    assert not out.exists()
    if state_path(out).exists():
        assert load_meta(state_path(out))["step"] >= len(steps_in(log_beside(out))) - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kills", "seed"), [(CACHED, 10, 0), (ADAMW, 3, 1), (None, 8, 2)], ids=["sgd", "adamw", "prune"]
)
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(
    options: tuple[Any, ...] | None,
    kills: int,
    seed: int,
    tmp_path: Path,
    slow_disk: dict[str, str],
    tiny_bundle: Path,
    run_cli: Any,
    content: Content,
) -> None:
    whole, out = tmp_path / "whole" / "f", tmp_path / "killed" / "f"
    log = log_beside(out)
    out.parent.mkdir()

    def line(target: Path) -> tuple[Any, ...]:
        cache = ("--cache-features", target.with_name("features")) if options is CACHED else ()
        return (*(PRUNE if options is None else ("finetune", tiny_bundle, *FINETUNE, *options)), *cache, "-o", target)

    assert run_cli(*line(whole)).exit_code == 0
    killed = 0
    for moment in moments(out, log, random.Random(seed))[:kills]:
        if not kill_at(moment(), start(slow_disk, *line(out), "--resume")):
            break
        killed += 1
        check_left(out)
    assert killed == kills, f"{killed} of {kills} kills, and the run was done: {steps_in(log)}"
    assert run_cli(*line(out), "--resume").exit_code == 0
    assert content(out) == content(whole) and open_bundle(out).digest == open_bundle(whole).digest
    assert steps_in(log) == steps_in(log_beside(whole)) == list(range(1, 1 + (32 if options is None else 40)))
    assert {path.name for path in out.parent.iterdir()} - {"features"} == {"f", "f.log.jsonl"}
    assert run_cli("verify", out).exit_code == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("verb", ["prune", "finetune"])
def test_a_process_that_is_told_to_end_leaves_its_state_and_goes_on_to_the_same_bytes(
    verb: str, how: signal.Signals, tmp_path: Path, tiny_bundle: Path, run_cli: Any, content: Content
) -> None:
    """To the whole group of processes, workers and all, as a terminal and a batch queue do it."""
    out, whole = tmp_path / "b", tmp_path / "whole" / "b"
    command = PRUNE if verb == "prune" else ("finetune", tiny_bundle, *FINETUNE, "--workers", 1)
    line = [sys.executable, "-m", "opentrans_cli", *map(str, (*command, "-o", out))]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not state_path(out).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        os.killpg(process.pid, how)
        written, told = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    code = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 75, signal.SIGINT: 130}[how]
    assert (process.returncode, written) == (code, "") and "Traceback" not in told, told
    reached, steps = load_meta(state_path(out))["step"], 32 if verb == "prune" else 40
    if how is signal.SIGTERM:
        assert told.startswith(f"opentrans: error: told to stop: step {reached} of {steps}, the state is in ")
    if how is not signal.SIGKILL:  # which may leave a state or a line half written
        assert steps_in(log_beside(out)) == list(range(1, reached + 1))
    left = {path.name for path in tmp_path.iterdir()}
    assert {state_path(out).name, "b.log.jsonl"} <= left and all(name.strip(".").startswith("b.") for name in left)
    assert run_cli(*command, "-o", out, "--resume").exit_code == 0
    assert run_cli(*command, "-o", whole).exit_code == 0
    assert content(out) == content(whole) and not state_path(out).exists()
    assert steps_in(log_beside(out)) == list(range(1, steps + 1))
