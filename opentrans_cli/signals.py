"""Ctrl-C, SIGTERM and a closed terminal: a run ends between two of its steps, when its state is on the disk."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from opentrans_cli.errors import RunStopped


class Terminated(KeyboardInterrupt):
    """SIGTERM, which batch queues send some time before they kill, or SIGHUP of a terminal that was closed."""


_TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_DOUBLED = 0.5
"""Seconds in which a second Ctrl-C is the first one, passed on once more by a program that started this one."""

_LATER = 0.01
"""Seconds after which a signal is sent again that came where nothing can be raised."""


@contextmanager
def answered() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Terminated, as Ctrl-C raises KeyboardInterrupt.

    Only a main thread can have handlers: elsewhere signals do what they did. A signal that is ignored, as under nohup,
    stays ignored. The same holds for `held_back`.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handled(stop, _TERMINATING), _sent_again():
        yield


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Inside, no signal ends the process: the block asks whether one has come, and ends with RunStopped.

    A second Ctrl-C raises KeyboardInterrupt at once. A RunStopped after a Ctrl-C becomes KeyboardInterrupt, with the
    RunStopped as its cause. A signal that the block did not ask for is raised when the block is done.
    """
    came: list[int] = []
    pressed = 0.0

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if number == signal.SIGINT:
            if number in came and time.monotonic() - pressed > _DOUBLED:
                raise KeyboardInterrupt
            pressed = time.monotonic()
        came.append(number)

    try:
        with _handled(remember, (signal.SIGINT, *_TERMINATING)):
            yield lambda: bool(came)
    except RunStopped as stopped:
        if signal.SIGINT in came:
            raise KeyboardInterrupt(str(stopped)) from stopped
        raise
    if came:
        raise KeyboardInterrupt if signal.SIGINT in came else Terminated


@contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started inside never get these signals, which come to all of a terminal or a job: only their
    parent acts on them. Does nothing on Windows.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, *_TERMINATING))  # which children inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sent_again() -> Iterator[None]:
    """Inside, a signal that came in a finalizer, where Python drops what is raised, comes once more a moment later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = sys.unraisablehook

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, KeyboardInterrupt):
            before(dropped)
            return
        number = signal.SIGTERM if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
        later = threading.Timer(_LATER, signal.raise_signal, (number,))
        later.daemon = True
        later.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], numbers: Iterable[int]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in before.items():
            # None: a handler that was not set by Python, and cannot be set again by it.
            signal.signal(number, signal.SIG_DFL if old is None else old)
