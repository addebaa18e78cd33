"""prune and finetune as processes of their own: killed anywhere or told to stop, they end in the same bytes."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from forked import Forked, command_line

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.steps.run_files import log_beside, state_path
from opentrans_cli.training.state_file import load_meta

Content = Callable[[Path], dict[str, bytes]]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")

PATIENCE = 600.0  # seconds until a process is given up
PRUNE: tuple[Any, ...] = (
    *("prune", "tiny", "--images", "shapes", "--image-limit", 8, "--batch-size", 4, "--sparsity", 0.3),
    *("--steps-per-round", 2, "--final-steps", 8, "--keep-rounds", "weights", "--device", "cpu", "--quiet"),
    *("--criterion", "magnitude", "--save-every", 1),
)  # four rounds, 14 steps
FINETUNE: tuple[Any, ...] = (
    *("--steps", 14, "--batch-size", 2, "--crop", 32, "--limit", 4, "--device", "cpu", "--save-every", 1, "--quiet"),
    *("--timing-steps", 0, "--views", 2, "--ema", 0.9),
)
CACHED = (
    *("--warmup-steps", 4, "--freeze-prefix", "--prefix-end", "layer1.0"),
    *("--kd-weight", 0.5, "--optimizer", "sgd", "--momentum", 0.9, "--lr", 0.01),
)
STEPS = list(range(1, 15))

SLOW_DISK = """
import os, time
def fsync(descriptor, sleep=time.sleep, flush=os.fsync):
    sleep(0.04)
    flush(descriptor)
os.fsync = fsync
"""
"""Files stay half written long enough to be seen so."""


def start(*command: object) -> Forked:
    return Forked(partial(command_line, before=SLOW_DISK), *command, session=True)


def steps_in(log: Path) -> list[int]:
    """The steps of the whole lines of a log."""
    lines = log.read_bytes().split(b"\n")[:-1] if log.exists() else []
    return [entry["step"] for entry in map(json.loads, lines) if entry["event"] == "step"]


def being_written(out: Path) -> set[str]:
    """States, bundles and logs that are half on the disk."""
    return {path.name for path in out.parent.iterdir() if path.name.endswith(".tmp")}


def kill_at(moment: Callable[[], bool], process: Forked, how: signal.Signals) -> tuple[int | None, str]:
    """Send `how` to the process and all it started once `moment` is true; exit code and what was told."""
    begun = time.monotonic()
    try:
        while process.poll() is None and time.monotonic() < begun + PATIENCE:
            if moment():
                with suppress(ProcessLookupError):  # it has no group of its own yet
                    os.killpg(process.pid, how)
                process.send_signal(how)
                break
            time.sleep(0.002)
        written, told = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0 or not written
    return process.returncode, told


def moments(out: Path, draw: random.Random) -> list[Callable[[], Callable[[], bool]]]:
    """Makers of moments of three kinds, with random delays, called when a process starts."""

    def after_a_step() -> Callable[[], bool]:
        reached, delay, first = len(steps_in(log_beside(out))), draw.uniform(0, 0.1), [float("inf")]

        def moment() -> bool:
            if len(steps_in(log_beside(out))) > reached:
                first[0] = min(first[0], time.monotonic())
            return time.monotonic() >= first[0] + delay

        return moment

    def while_writing() -> Callable[[], bool]:
        left, seen, nth = being_written(out), set[str](), draw.randint(1, 2)

        def moment() -> bool:
            now = being_written(out) - left
            seen.update(now)
            return bool(now) and len(seen) >= nth

        return moment

    def at_first() -> Callable[[], bool]:
        after = time.monotonic() + draw.uniform(0, 1)
        return lambda: time.monotonic() >= after

    return [after_a_step, while_writing, at_first]


@pytest.mark.parametrize("verb", ["prune", "finetune"])
def test_a_run_killed_at_random_moments_ends_in_the_same_bytes(
    verb: str, tmp_path: Path, tiny_bundle: Path, run_cli: Any, content: Content
) -> None:
    whole, out, draw = tmp_path / "whole" / "f", tmp_path / "killed" / "f", random.Random(0)
    out.parent.mkdir()

    def line(target: Path) -> tuple[Any, ...]:
        cache = ("--cache-features", target.with_name("features"))
        return (*(PRUNE if verb == "prune" else ("finetune", tiny_bundle, *FINETUNE, *CACHED, *cache)), "-o", target)

    assert run_cli(*line(whole)).exit_code == 0
    for moment in moments(out, draw):
        code, told = kill_at(moment(), start(*line(out), "--resume"), signal.SIGKILL)
        assert code == -signal.SIGKILL and not out.exists(), told
        if state_path(out).exists():
            assert load_meta(state_path(out))["step"] >= len(steps_in(log_beside(out))) - 1
    assert run_cli(*line(out), "--resume").exit_code == 0
    assert content(out) == content(whole) and open_bundle(out).digest == open_bundle(whole).digest
    assert steps_in(log_beside(out)) == steps_in(log_beside(whole)) == STEPS
    assert {path.name for path in out.parent.iterdir()} - {"features"} == {"f", "f.log.jsonl"}
    assert run_cli("verify", out).exit_code == 0


def test_told_to_end_it_says_the_command_that_goes_on_to_the_same_bytes(
    tmp_path: Path, tiny_bundle: Path, run_cli: Any, content: Content
) -> None:
    """To the whole group of processes, workers and all, as a terminal and a batch queue do it."""
    out, whole = tmp_path / "b", tmp_path / "whole" / "b"
    command: tuple[object, ...] = ("finetune", tiny_bundle, *FINETUNE, "--workers", 1, "-o", out)
    assert run_cli(*command[:-1], whole).exit_code == 0
    for how, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        before = load_meta(state_path(out))["step"] if state_path(out).exists() else 0

        def further(before: int = before) -> bool:
            return state_path(out).exists() and load_meta(state_path(out))["step"] > before

        found, told = kill_at(further, start(*command), how)
        assert found == code and "Traceback" not in told, told
        reached = load_meta(state_path(out))["step"]
        command = (*command, "--resume") if how is signal.SIGTERM else command
        typed = shlex.join(["opentrans", *map(str, command)])
        assert told == f"opentrans: interrupted after step {reached} of 14; go on with: {typed}\n"
        assert steps_in(log_beside(out)) == STEPS[:reached]
    assert run_cli(*command).exit_code == 0
    assert content(out) == content(whole) and not state_path(out).exists()
    assert steps_in(log_beside(out)) == STEPS
