"""SIGTERM, which batch queues send some time before they kill: noticed while training, to end between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Inside it SIGTERM ends nothing; what is given says whether one has come.

    The old handler is back afterwards. Only a main thread can have handlers: elsewhere SIGTERM ends the process as
    ever, and the state of the last save is there.
    """
    told = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        told.set()

    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield told.is_set
    finally:
        # None: a handler that was not set by Python, and cannot be set again by it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
