"""SIGTERM, which batch queues send some time before they kill, and Ctrl-C: noticed while training, to end between two
steps.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from opentrans_cli.errors import TrainingStopped


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Inside it SIGTERM and a first Ctrl-C end nothing; what is given says whether one has come. A second Ctrl-C raises
    KeyboardInterrupt at once, and so does the TrainingStopped that a first one led to, once it comes by.

    The old handlers are back afterwards. Only a main thread can have handlers: elsewhere signals end the process as
    ever, and the state of the last save is there.
    """
    told: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in told:
            raise KeyboardInterrupt
        told.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(told)
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(told)
    except TrainingStopped as stopped:
        if signal.SIGINT in told:
            raise KeyboardInterrupt(str(stopped)) from stopped
        raise
    finally:
        for number, handler in before.items():
            # None: a handler that was not set by Python, and cannot be set again by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
