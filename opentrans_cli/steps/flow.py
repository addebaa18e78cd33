"""Pictures on their way through a model: read ahead of it, and done with behind it, while it works."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from types import TracebackType
from typing import Generic, TypeVar

from opentrans_cli.datasets.images import picture_warnings
from opentrans_cli.datasets.workers import Task, Workers
from opentrans_cli.signals import unheard

T = TypeVar("T")


class Flow(Generic[T]):
    """Threads beside the one that runs a model: `readers` of them ahead of it, and one behind it.

    Use it in a `with` statement: no thread outlives the block. With 0 readers everything is done by the caller's thread
    when it is asked for. However slow the model is, only a few pictures are in memory: for each reader
    AHEAD_OF_THREADS, one in the model, and one behind it. Errors come in the order of the pictures.
    """

    def __init__(self, readers: int) -> None:
        """Raises OptionError for a negative number."""
        self._readers: Workers[T] = Workers(readers, threads=True)
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="behind") if readers else None
        self._last: Future[None] | None = None
        self._open = ExitStack()

    def ahead(self, tasks: Iterable[Task[T]]) -> Generator[T, None, None]:
        """The results of the tasks, in their order; raises what a task raises, when it is its turn."""
        with closing(self._readers.in_order([task] for task in tasks)) as results:
            while True:
                try:
                    (result,) = next(results)
                except StopIteration:
                    return
                except Exception:
                    self.settle()  # an error of an earlier picture comes first
                    raise
                yield result

    def behind(self, work: Callable[[], None]) -> None:
        """Have this done while the caller goes on. Waits for the last such work and raises what that has raised."""
        self.settle()
        if self._behind is None:
            work()
            return
        with unheard():  # it may start the thread, to which no signal is to come
            self._last = self._behind.submit(work)

    def settle(self) -> None:
        """Wait until all is done that was left `behind`. Raises what that has raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> Flow[T]:
        # Threads share the filters of warnings, so what reading sets for one picture must hold all the time.
        self._open.enter_context(picture_warnings())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            try:
                if error is None or isinstance(error, Exception):
                    self.settle()
            finally:
                self._readers.close()
                if self._behind is not None:
                    self._behind.shutdown(wait=True)
