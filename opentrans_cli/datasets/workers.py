"""Workers that make pictures ahead: results come in order, look-ahead is bounded, and none of them is left behind.

Processes suit work that keeps Python busy, such as drawing scenes and training crops; they need only numpy and Pillow,
where a worker of torch's DataLoader first imports torch, which costs seconds of CPU. Threads suit pictures that are
decoded as they are: Pillow lets other threads work meanwhile, and nothing has to be sent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.signals import unheard

AHEAD = 3
"""Tasks per process that are begun before their results are asked for: one at work, one waiting, one done."""

AHEAD_OF_THREADS = 1
"""The same for threads, whose results are whole pictures: one at work, or done."""

Result_co = TypeVar("Result_co", covariant=True)
Result = TypeVar("Result")


class Task(Protocol[Result_co]):
    """A piece of work that contains all it needs, so that any process can do it."""

    def run(self) -> Result_co:
        """The result; a function of the task alone."""


class Workers(Generic[Result]):
    """`count` processes or threads, started when first needed; with 0, the caller's thread does each task on request.

    Processes are spawned, since forking is unsafe once torch has started threads. As with every use of
    multiprocessing, a script of your own needs `if __name__ == "__main__":` around what it does.
    """

    def __init__(self, count: int, *, prepare: Callable[[], None] | None = None, threads: bool = False) -> None:
        """prepare: called once in each process before its first task; what all tasks need is sent with it, once.

        Raises OptionError for a negative count.
        """
        if count < 0:
            raise OptionError(f"--workers must be at least 0: {count}; 0 decodes in the main process")
        self.count, self._prepare, self._threads = count, prepare, threads
        self._most = count * (AHEAD_OF_THREADS if threads else AHEAD)
        self._pool: Executor | None = None

    def in_order(self, batches: Iterable[Sequence[Task[Result]]]) -> Generator[list[Result], None, None]:
        """The results of each batch of tasks, batch by batch.

        With workers, `batches` is read ahead by AHEAD tasks per process, or AHEAD_OF_THREADS per thread, rounded up to
        whole batches; results that nobody took yet count, so memory stays bounded however slow the caller is. Raises
        DataError if a worker is killed, and whatever a task raises.
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
        """Ends the workers and waits for them; tasks not yet begun are dropped. They start again when needed."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _kill(self) -> None:
        """Kill the processes, which the executor would only ask to end and then wait for."""
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.kill()

    def _begin(self, source: Iterator[Sequence[Task[Result]]], begun: deque[list[Future[Result]]]) -> None:
        if self._pool is None:
            self._pool = self._opened()
        while sum(map(len, begun)) < self._most and (tasks := next(source, None)) is not None:
            # A task may start a worker. A process must not end in the middle of an import, and a signal that came to a
            # thread would not wake the main one.
            with unheard():
                begun.append([self._pool.submit(_run, task) for task in tasks])

    def _opened(self) -> Executor:
        if self._threads:
            return ThreadPoolExecutor(self.count, thread_name_prefix="ahead")
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.count, mp_context=context, initializer=_be_a_worker, initargs=(self._prepare,))


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
