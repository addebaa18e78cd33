"""Worker processes that make pictures: results come in order, look-ahead is bounded, and no process is left behind.

Workers need only numpy and Pillow. A worker of torch's DataLoader first imports torch, which costs seconds of CPU.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.signals import unheard

AHEAD = 3
"""Tasks per worker that are begun before their results are asked for: one at work, one waiting, one done."""

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class Task(Protocol[Result_co]):
    """A piece of work that contains all it needs, so that any process can do it."""

    def run(self) -> Result_co:
        """The result; a function of the task alone."""


class Workers(Generic[Result]):
    """`count` processes, started when first needed; with 0, this process does each task on request.

    Processes are spawned, since forking is unsafe once torch has started threads. As with every use of
    multiprocessing, a script of your own needs `if __name__ == "__main__":` around what it does.
    """

    def __init__(self, count: int, *, prepare: Callable[[], None] | None = None) -> None:
        """prepare: called once in each process before its first task; what all tasks need is sent with it, once.

        Raises OptionError for a negative count.
        """
        if count < 0:
            raise OptionError(f"--workers must be at least 0: {count}; 0 decodes in the main process")
        self.count, self._prepare = count, prepare
        self._pool: ProcessPoolExecutor | None = None

    def in_order(self, batches: Iterable[Sequence[Task[Result]]]) -> Iterator[list[Result]]:
        """The results of each batch of tasks, batch by batch.

        With processes, `batches` is read ahead by AHEAD tasks per worker, rounded up to whole batches; results that
        nobody took yet count, so memory stays bounded however slow the caller is. Raises DataError if a worker is
        killed, and whatever a task raises.
        """
        if self.count == 0:
            for tasks in batches:
                yield [task.run() for task in tasks]
            return
        begun: deque[list[Future[Result]]] = deque()
        source = iter(batches)
        try:
            self._begin(source, begun)
            while begun:
                futures = begun.popleft()
                self._begin(source, begun)  # before the wait, so that no worker idles at the end of a batch
                yield [future.result() for future in futures]
        except BrokenProcessPool:
            self._kill()
            self.close()
            raise DataError(
                f"a worker process ended too early: one of {self.count}, killed or out of memory; use fewer --workers"
            ) from None
        finally:
            for future in chain.from_iterable(begun):
                future.cancel()

    def close(self) -> None:
        """Ends the processes and waits for them; tasks not yet begun are dropped. They start again when needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _kill(self) -> None:
        """Kill the processes, which the executor would only ask to end and then wait for."""
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.kill()

    def _begin(self, source: Iterator[Sequence[Task[Result]]], begun: deque[list[Future[Result]]]) -> None:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.count, mp_context=context, initializer=_be_a_worker, initargs=(self._prepare,)
            )
        while sum(map(len, begun)) < AHEAD * self.count and (tasks := next(source, None)) is not None:
            with unheard():  # the first task starts the processes, which must not end in the middle of an import
                begun.append([self._pool.submit(_run, task) for task in tasks])


def _run(task: Task[Any]) -> Any:
    return task.run()


def _be_a_worker(prepare: Callable[[], None] | None) -> None:
    """Only the parent acts on signals; a worker ends when its parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where `unheard` does nothing
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    # An executor's workers keep both ends of their queue open, so they never notice that the parent was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
