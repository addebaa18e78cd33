"""finetune as a process of its own: killed wherever it stands, told to stop, out of time; it ends in the same bytes."""

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
from opentrans_cli.steps.run_files import state_path
from opentrans_cli.training.state_file import load_meta

Content = Callable[[Path], dict[str, bytes]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")

STEPS, KILLS, PATIENCE = 40, 10, 600.0
SMALL = (
    *("--steps", STEPS, "--batch-size", 2, "--crop", 32, "--limit", 4, "--device", "cpu", "--timing-steps", 0),
    *("--save-every", 1, "--quiet"),
)
EVERYTHING = (
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
    line = [sys.executable, "-m", "opentrans_cli", "finetune", *map(str, command)]
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
        assert load_meta(state_path(out))["step"] >= len(steps_in(out.with_name("f.log.jsonl"))) - 1


@pytest.mark.slow
@pytest.mark.parametrize(("options", "kills", "seed"), [(EVERYTHING, KILLS, 0), (ADAMW, 3, 1)], ids=["sgd", "adamw"])
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(
    options: tuple[Any, ...],
    kills: int,
    seed: int,
    tmp_path: Path,
    slow_disk: dict[str, str],
    tiny_bundle: Path,
    run_cli: Any,
    content: Content,
) -> None:
    whole, out = tmp_path / "whole" / "f", tmp_path / "killed" / "f"
    log = out.with_name("f.log.jsonl")
    out.parent.mkdir()
    cache = "--cache-features" if "--freeze-prefix" in options else None

    def line(folder: Path) -> tuple[Any, ...]:
        return (tiny_bundle, *SMALL, *options, *(() if cache is None else (cache, folder.with_name("features"))))

    assert run_cli("finetune", *line(whole), "-o", whole).exit_code == 0
    killed = 0
    for moment in moments(out, log, random.Random(seed))[:kills]:
        if not kill_at(moment(), start(slow_disk, *line(out), "-o", out, "--resume")):
            break
        killed += 1
        check_left(out)
    assert killed == kills, f"{killed} of {kills} kills, and the run was done: {steps_in(log)}"
    assert run_cli("finetune", *line(out), "-o", out, "--resume").exit_code == 0
    assert content(out) == content(whole) and open_bundle(out).digest == open_bundle(whole).digest
    assert steps_in(log) == list(range(1, STEPS + 1))
    assert {path.name for path in out.parent.iterdir()} - {"features"} == {"f", "f.log.jsonl"}
    assert run_cli("verify", out).exit_code == 0
