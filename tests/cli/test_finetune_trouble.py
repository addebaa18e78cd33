"""What goes wrong in the middle of finetune ends in one line and leaves a state; --resume goes on to the same bytes."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.files import atomic
from opentrans_cli.steps.run_files import state_path
from opentrans_cli.training import feature_cache
from opentrans_cli.training import step as steps_of_training
from opentrans_cli.training.state_file import load_meta

SMALL = (
    *("--steps", 6, "--batch-size", 2, "--crop", 32, "--limit", 2, "--device", "cpu", "--timing-steps", 0, "--quiet"),
    *("--save-every", 2, "--views", 3, "--prefix-end", "layer1.0", "--ema", 0.5),
)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, run_cli: Any, tiny_bundle: Path) -> dict[str, bytes]:
    """What a run writes that nothing happens to."""
    out = tmp_path_factory.mktemp("whole") / "f"
    assert run_cli("finetune", tiny_bundle, *SMALL, "-o", out).exit_code == 0
    return files_of(out)


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, run_cli: Any, tiny_bundle: Path) -> dict[str, bytes]:
    """The same with the features of the prefix on the disk."""
    out = tmp_path_factory.mktemp("cached") / "f"
    line = ("finetune", tiny_bundle, *SMALL, "-o", out, "--cache-features", out.with_name("features"))
    assert run_cli(*line).exit_code == 0
    return files_of(out)


def told_in_one_line(result: Any, code: int) -> str:
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    lines = result.stderr.splitlines()
    start = "opentrans: error: " if code == 1 else "opentrans: "  # to be told to stop is no error
    assert len(lines) == 1 and lines[0].startswith(start) and "; " in lines[0], result.stderr
    return str(lines[0].removeprefix(start))


def steps_in(log: Path) -> list[int]:
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return [entry["step"] for entry in entries if entry["event"] == "step"]


def fail_from(call: Callable[..., Any], number: int, when: Callable[..., bool]) -> Callable[..., Any]:
    """`call`, but the disk is full from its `number`-th (from 1) call on for which `when` is true."""
    seen = 0

    def failing(*given: Any, **named: Any) -> Any:
        nonlocal seen
        seen += when(*given, **named)
        if seen >= number and when(*given, **named):
            raise FULL
        return call(*given, **named)

    return failing


@pytest.mark.parametrize(
    ("what", "state"),
    [("state", 2), ("features", 2), ("bundle", 6), ("features at once", None), ("state at once", None)],
)
def test_a_disk_that_fills_up_costs_no_step_that_was_saved(
    what: str,
    state: int | None,
    cached: dict[str, bytes],
    run_cli: Any,
    desk: Path,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = ("finetune", bundle, *SMALL, "-o", desk / "f", "--cache-features", desk / "features")
    if what == "features":  # a state is saved where there is still room for one
        line += ("--save-every", 100)
    number = 1 if "once" in what or what == "bundle" else 2 if what == "state" else 9  # features: two calls a crop
    with monkeypatch.context() as patch:
        if what.startswith("features"):
            patch.setattr(feature_cache.os, "pwrite", fail_from(os.pwrite, number, lambda *_: True))
        else:
            there = "resume" if what.startswith("state") else "weights"
            write = fail_from(atomic.write_file, number, lambda path, chunks: there in str(path))
            for module in [found for name, found in sys.modules.items() if name.startswith("opentrans_cli.")]:
                if getattr(module, "write_file", None) is atomic.write_file and module is not atomic:
                    patch.setattr(module, "write_file", write)
        message = told_in_one_line(run_cli(*line), 1)
    again = (
        "start again with: "
        if state is None
        else f"interrupted after step {state} of 6; free some space and go on with: "
    )
    assert "No space left on device" in message and again in message
    assert message.endswith("--resume") == (state is not None)
    left = {path.name for path in desk.iterdir()} - {"features", "f.log.jsonl"}
    assert left == (set() if state is None else {state_path(desk / "f").name})
    if state is not None:
        assert load_meta(state_path(desk / "f"))["step"] == state
    assert run_cli(*line, "--resume").exit_code == 0
    assert files_of(desk / "f") == cached
    assert steps_in(desk / "f.log.jsonl") == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in desk.iterdir()} == {"f", "features", "f.log.jsonl"}


DISK = """
set -e
mount -t tmpfs -o size=30m disk "$1"
set +e
"$2" -m opentrans_cli finetune $3 > "$4" 2>&1
echo "ended $?" >> "$4"
ls -A "$1" >> "$4"
mount -o remount,size=400m "$1"
"$2" -m opentrans_cli finetune $3 --resume >> "$4" 2>&1
echo "ended $?" >> "$4"
cp -r "$1"/f "$1"/f.log.jsonl "$5"
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or shutil.which("unshare") is None, reason="needs a disk of its own")
def test_a_state_that_finds_no_room_leaves_the_last_one(
    whole: dict[str, bytes], bundle: Path, desk: Path, tmp_path: Path
) -> None:
    """On a real file system with room for one state, not for two."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "t", str(desk)], capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    told, copied = tmp_path / "told", tmp_path / "copied"
    copied.mkdir()
    line = " ".join(map(str, (bundle, *SMALL, "-o", desk / "f")))
    script = ("unshare", "-rm", "sh", "-c", DISK, "sh", desk, sys.executable, line, told, copied)
    subprocess.run([*map(str, script)], check=True, timeout=600)
    lines = told.read_text().splitlines()
    assert "No space left on device" in lines[0] and re.search(r"\([\d,]{9,} bytes needed, [\d,]+ free\)", lines[0])
    assert lines[1:4] == ["ended 1", state_path(Path("f")).name, "f.log.jsonl"]
    assert lines[-1] == "ended 0"
    assert files_of(copied / "f") == whole
    assert steps_in(copied / "f.log.jsonl") == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device")
def test_a_log_without_room_is_said_and_stops_nothing(
    whole: dict[str, bytes], run_cli: Any, desk: Path, bundle: Path
) -> None:
    loud = [part for part in SMALL if part != "--quiet"]
    result = run_cli("finetune", bundle, *loud, "-o", desk / "f", "--log", "/dev/full")
    assert result.exit_code == 0
    assert "cannot write the log: /dev/full (No space left on device); training goes on" in result.stderr
    assert files_of(desk / "f") == whole


EXPLODES = ("--lr", 1e8, "--optimizer", "sgd", "--grad-clip", 0, "--momentum", 0, "--lr-warmup-steps", 0)


def test_a_loss_that_explodes_ends_with_its_step_and_says_what_to_do(run_cli: Any, desk: Path, bundle: Path) -> None:
    out = desk / "f"
    line = ("finetune", bundle, *SMALL, "-o", out)
    message = told_in_one_line(run_cli(*line, *EXPLODES), 1)
    found = re.fullmatch(
        r"(?:loss|gradient) is not finite: step (\d) of 6 \(the state before it is in (.+)\); lower the learning rate "
        r"\(now 1e\+08\) or add warm-up steps.*",
        message,
    )
    assert found is not None and Path(found[2]) == state_path(out), message
    assert load_meta(state_path(out))["step"] == int(found[1]) - 1
    before = state_path(out).read_bytes()
    # The same again comes to the same.
    assert told_in_one_line(run_cli(*line, *EXPLODES, "--resume"), 1) == message
    other = told_in_one_line(run_cli(*line, *EXPLODES, "--lr", 1e-3, "--resume"), 1)
    assert "(lr was 100000000.0, now 0.001)" in other and "without --resume" in other
    assert state_path(out).read_bytes() == before and not out.exists()
    assert run_cli(*line, *EXPLODES, "--lr", 1e-3, "--force").exit_code == 0
    assert steps_in(desk / "f.log.jsonl") == [1, 2, 3, 4, 5, 6] and not state_path(out).exists()


def test_when_time_is_up_the_run_ends_with_75_and_goes_on_when_told(
    whole: dict[str, bytes], run_cli: Any, desk: Path, bundle: Path
) -> None:
    line = ("finetune", bundle, *SMALL, "-o", desk / "f")
    state = state_path(desk / "f")
    message = told_in_one_line(run_cli(*line, "--max-minutes", 1e-6), 75)
    assert message.startswith("the time is up; interrupted after step 1 of 6; go on with: ")
    assert shlex.split(message)[-len(line) - 3 :] == [*map(str, line), "--max-minutes", "1e-06", "--resume"]
    assert "step 2 of 6" in told_in_one_line(run_cli(*line, "--max-minutes", 1e-6, "--resume"), 75)
    assert run_cli(*line, "--resume").exit_code == 0
    assert files_of(desk / "f") == whole and not state.exists()
    entries = [json.loads(entry) for entry in (desk / "f.log.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == [
        *("start", "freeze", "step", "stop", "start", "step", "stop", "start", *4 * ("step",), "end")
    ]


def test_sigterm_ends_after_the_step_with_a_state_and_75(
    whole: dict[str, bytes], run_cli: Any, desk: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    take = steps_of_training.Stepper.take

    def hit(self: Any, *given: Any, **named: Any) -> Any:
        if self._run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, *given, **named)

    line = ("finetune", bundle, *SMALL, "--save-every", 100, "-o", desk / "f")
    with monkeypatch.context() as patch:
        patch.setattr(steps_of_training.Stepper, "take", hit)
        message = told_in_one_line(run_cli(*line), 75)
    state = state_path(desk / "f")
    assert message.startswith("interrupted after step 3 of 6; go on with: ") and message.endswith(" --resume")
    refused = told_in_one_line(run_cli(*line), 1)
    assert refused == f"a state of step 3 of 6 lies at {state}; go on with --resume, or start anew with --force"
    assert signal.getsignal(signal.SIGTERM) is before
    assert run_cli(*line, "--resume").exit_code == 0
    assert files_of(desk / "f") == whole
    assert steps_in(desk / "f.log.jsonl") == [1, 2, 3, 4, 5, 6]
