"""Worker processes: the order asked for, a bounded look-ahead, light processes, and nobody left behind or waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.datasets.workers import AHEAD, Workers
from opentrans_cli.errors import DataError, OptionError

# Tasks must lie in a module that a worker can import, which a test module is not; so they are written into a file.
TASKS = """
import os, signal, sys, time
from dataclasses import dataclass

@dataclass(frozen=True)
class Square:
    number: int
    seconds: float = 0.0

    def run(self):
        time.sleep(self.seconds)
        return self.number**2

class Loaded:
    def run(self):
        import opentrans_cli.datasets.views
        return sorted({"torch", "open_clip", "typer", "rich"} & set(sys.modules)), os.getpid()

@dataclass(frozen=True)
class Touch:
    path: str

    def run(self):
        time.sleep(0.02)
        open(self.path, "w").close()

class Dies:
    def run(self):
        os.kill(os.getpid(), signal.SIGKILL)

prepared = []

@dataclass(frozen=True)
class Prepare:
    value: int

    def __call__(self):
        prepared.append(self.value)

class Prepared:
    def run(self):
        return list(prepared)

class Raises:
    def run(self):
        raise ValueError("a mistake of the program")
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "worker_tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "worker_tasks", raising=False)
    import worker_tasks  # type: ignore[import-not-found]

    return worker_tasks


@pytest.fixture
def pool() -> Iterator[Workers[Any]]:
    workers: Workers[Any] = Workers(2)
    yield workers
    workers.close()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")  # an orphan nobody waits for stays in the table as a zombie
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("count", [0, 2])
def test_results_come_in_the_order_asked_for_whoever_is_faster(count: int, tasks: Any) -> None:
    batches = [[tasks.Square(3, 0.2), tasks.Square(1)], [], [tasks.Square(2)]]
    workers: Workers[int] = Workers(count)
    try:
        assert list(workers.in_order(batches)) == [[9, 1], [], [4]]
    finally:
        workers.close()


def test_each_process_is_prepared_once_before_its_first_task(tasks: Any) -> None:
    workers: Workers[list[int]] = Workers(2, prepare=tasks.Prepare(7))
    try:
        for _ in range(2):
            assert list(workers.in_order([[tasks.Prepared()] * 4] * 3)) == [[[7]] * 4] * 3
            workers.close()
        assert tasks.prepared == []
    finally:
        workers.close()


def test_a_worker_loads_neither_torch_nor_the_command_line_and_ends_with_close(tasks: Any, pool: Workers[Any]) -> None:
    ((loaded, process),) = next(pool.in_order([[tasks.Loaded()]]))
    assert loaded == [] and process != os.getpid() and alive(process)
    pool.close()
    assert not alive(process)


def test_the_look_ahead_is_bounded_and_nothing_is_read_before_it_is_needed(tasks: Any, pool: Workers[Any]) -> None:
    begun = 0

    def batches() -> Iterator[list[Any]]:
        nonlocal begun
        for number in range(100):
            begun += 1
            yield [tasks.Square(number)] * 2

    results = pool.in_order(batches())
    assert begun == 0
    for taken in range(1, 6):
        next(results)
        assert begun == taken + AHEAD * pool.count // 2


def test_what_was_read_ahead_is_dropped_when_the_caller_stops(tasks: Any, pool: Workers[Any], tmp_path: Path) -> None:
    done = tmp_path / "done"
    done.mkdir()
    results = pool.in_order([[tasks.Square(1)], [tasks.Touch(str(done / str(number))) for number in range(40)]])
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert list(pool.in_order([[tasks.Square(2)]])) == [[4]]
    assert len(list(done.iterdir())) < 20


def test_in_this_process_nothing_is_read_ahead(tasks: Any) -> None:
    source = iter([[tasks.Square(1)], [tasks.Square(2)]])
    assert next(Workers[int](0).in_order(source)) == [1]
    assert next(source) == [tasks.Square(2)]


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
def test_a_killed_worker_is_told_and_the_next_batch_starts_new_ones(tasks: Any, pool: Workers[Any]) -> None:
    with pytest.raises(DataError, match="a worker process ended too early: one of 2, killed or out of memory"):
        list(pool.in_order([[tasks.Square(1), tasks.Dies()], [tasks.Square(2)]] * 3))
    assert list(pool.in_order([[tasks.Square(3)]])) == [[9]]


def test_a_mistake_in_a_task_reaches_the_caller(tasks: Any, pool: Workers[Any]) -> None:
    with pytest.raises(ValueError, match="a mistake of the program"):
        list(pool.in_order([[tasks.Square(1)], [tasks.Raises()]]))


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(OptionError, match="--workers must be at least 0: -1"):
        Workers(-1)


PARENT = """
import sys, time
import worker_tasks
from opentrans_cli.datasets.workers import Workers

if __name__ == "__main__":
    workers = Workers(1)
    try:
        ((_, process),) = next(workers.in_order([[worker_tasks.Loaded()]]))
        print(process, flush=True)
        time.sleep(240)
    finally:
        workers.close()
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent_and_say_nothing_of_ctrl_c(
    how: signal.Signals, tasks: Any, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    # A session of its own, so that the signal reaches parent and worker, as a terminal's Ctrl-C does.
    parent = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)
        else:
            os.kill(parent.pid, how)
        _, told = parent.communicate(timeout=600)
    finally:
        parent.kill()
    deadline = time.monotonic() + 600
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(worker)
    assert told.count("Traceback") == (how == signal.SIGINT)  # the parent's own
