"""A bundle is whole or not there, wherever writing stops: at any system call, and by kill -9."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.store import Bundle, add_file, add_files, open_bundle, write_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files import atomic

Make = Callable[..., Any]
CALLS = ("fsync", "replace", "rename", "mkdir")
LEAN = {"rounds": None, "head": None, "segmentor": None, "alpha": None, "reports": {}}


@contextmanager
def failing_at(number: int, error: BaseException) -> Iterator[list[str]]:
    """Raises `error` at the `number`-th system call of our code; yields the calls seen."""
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _counting(name, getattr(os, name), seen=seen, number=number, error=error))
        yield seen


def _counting(
    name: str, real: Callable[..., Any], *, seen: list[str], number: int, error: BaseException
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        if len(seen) == number:
            raise error
        return real(*args, **kwargs)

    return call


def every_stop(action: Callable[[], object], error: BaseException) -> Iterator[int]:
    """Runs `action` with a failure at its first, second, ... call until none is left; yields after each."""
    for number in itertools.count(1):
        with failing_at(number, error) as seen:
            with suppress(BundleError, KeyboardInterrupt):
                action()
            if len(seen) < number:
                assert number > 10, "the calls were not seen"
                return
        yield number


def whole(path: Path) -> bool:
    return all(check.ok for check in verify_bundle(path))


ERRORS = [OSError(28, "No space left on device"), KeyboardInterrupt()]
EVERY_ERROR = pytest.mark.parametrize("error", ERRORS, ids=["disk full", "Ctrl-C"])


@EVERY_ERROR
def test_a_new_bundle_is_absent_or_complete_after_a_failure_anywhere(
    tmp_path: Path, contents: Make, error: BaseException
) -> None:
    target = tmp_path / "b"
    given = contents(**LEAN)
    states = set()
    for _ in every_stop(lambda: write_bundle(target, given), error):
        states.add(target.exists())
        if target.exists():
            assert whole(target)
            write_bundle(target, given, force=True)
            for path in sorted(target.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            target.rmdir()
        assert not list(tmp_path.iterdir()), "temporary files were left"
    assert False in states


@pytest.mark.parametrize("swaps", [True, False], ids=["swapping", "two renames"])
@EVERY_ERROR
def test_a_replaced_bundle_is_old_or_new_after_a_failure_anywhere(
    tmp_path: Path, contents: Make, monkeypatch: pytest.MonkeyPatch, error: BaseException, swaps: bool
) -> None:
    if not swaps:  # as on file systems that cannot
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    target = tmp_path / "b"
    old, new = contents(0, **LEAN), contents(1, **LEAN)
    digests = [write_bundle(tmp_path / name, given).digest for name, given in (("b", old), ("new", new))]
    for _ in every_stop(lambda: write_bundle(target, new, force=True), error):
        assert open_bundle(target).digest in digests and whole(target)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "new"]
        write_bundle(target, old, force=True)
    assert open_bundle(target).digest == digests[1]


@EVERY_ERROR
def test_added_measurements_are_all_old_or_all_new_after_a_failure_anywhere(
    bundle: Bundle, step: Make, error: BaseException
) -> None:
    counter = itertools.count(10)

    def add() -> None:
        value = next(counter)
        files: Any = {"alpha.safetensors": ({"a": np.float64([value])}, {"value": value})}
        files |= dict.fromkeys(("reports/one.json", "reports/two.json"), b"%d" % value)
        add_files(bundle, files, step=step("analyze"))

    def state() -> tuple[int, object, set[bytes | None]]:
        now = open_bundle(bundle.path)
        reports = {now.read(name) if now.has(name) else None for name in ("reports/one.json", "reports/two.json")}
        return len(now.manifest.steps), now.alpha()[1], reports  # type: ignore[index]

    before = state()
    for _ in every_stop(add, error):
        after = state()
        assert whole(bundle.path) and len(after[2]) == 1
        assert (after == before) or (after[0] == before[0] + 1 and after[1] != before[1] and after[2] != before[2])
        before = after
    assert not list(bundle.path.rglob("*.next")) and not list(bundle.path.rglob("*.tmp"))


CHILD = """
import os, sys, time
sys.path.insert(0, {tests!r})
from conftest import make_contents, make_step
from opentrans_cli.bundle.store import add_file, open_bundle, write_bundle
real, seen = getattr(os, {call!r}), []
def stop(*args, **kwargs):
    seen.append(1)
    if len(seen) == {number}:
        print("now", flush=True)
        time.sleep(600)
    return real(*args, **kwargs)
setattr(os, {call!r}, stop)
{action}
"""
REPLACE = "write_bundle({target!r}, make_contents(1), force=True)"
MEASURE = "add_file(open_bundle({target!r}), 'reports/eval.json', b'[2]', step=make_step('eval'))"


def kill_in_the_middle(target: Path, action: str, *, call: str, number: int) -> None:
    code = CHILD.format(
        tests=str(Path(__file__).parent), call=call, number=number, action=action.format(target=str(target))
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_kill_9_while_replacing_a_bundle_leaves_the_old_one(bundle: Bundle, contents: Make) -> None:
    kill_in_the_middle(bundle.path, REPLACE, call="fsync", number=5)
    assert open_bundle(bundle.path).digest == bundle.digest and whole(bundle.path)
    write_bundle(bundle.path, contents(1), force=True)


@pytest.mark.parametrize(("number", "steps"), [(2, 1), (3, 2)])
def test_kill_9_before_and_after_the_manifest_changed_leaves_the_old_or_the_new_report(
    bundle: Bundle, step: Make, number: int, steps: int
) -> None:
    kill_in_the_middle(bundle.path, MEASURE, call="replace", number=number)
    now = open_bundle(bundle.path)
    assert whole(bundle.path) and len(now.manifest.steps) == steps
    assert now.read("reports/eval.json") == (b'{"miou": 0.5}\n' if steps == 1 else b"[2]")
    after = add_file(now, "reports/more.json", b"{}", step=step("eval"))
    assert after.read("reports/eval.json") == now.read("reports/eval.json")
    assert not list(bundle.path.rglob(".*.next"))


def test_a_bundle_caught_between_two_renames_says_where_the_old_one_is(bundle: Bundle) -> None:
    bundle.path.rename(atomic.replaced_copy(bundle.path))
    with pytest.raises(BundleError, match=r"cut off while being replaced.*rename .*\.tiny\.replaced"):
        open_bundle(bundle.path)


def test_a_target_that_appears_while_writing_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with (
        pytest.raises(BundleError, match="cannot write the bundle"),
        atomic.staged_folder(target, replace=False),
    ):
        target.mkdir()
        (target / "theirs").write_text("x")
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "theirs"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no system call swaps folders here")
def test_swapping_two_folders_exchanges_their_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not atomic._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot swap folders")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "a",
        "a/b",
        "b",
        "b/a",
    ]
