"""Pictures flow past a model in order, few at a time, and no thread is left behind."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from opentrans_cli.datasets.workers import AHEAD_OF_THREADS
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.flow import Flow


@dataclass(frozen=True)
class Call:
    """A task that calls a function."""

    function: Callable[[], Any]

    def run(self) -> Any:
        return self.function()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def failing(text: str) -> Call:
    def fail() -> None:
        raise ValueError(text)

    return Call(fail)


@pytest.mark.parametrize("readers", [0, 1, 3])
def test_pictures_come_and_go_in_order_whoever_is_faster(readers: int) -> None:
    draw = random.Random(0)
    seconds = [draw.random() / 500 for _ in range(40)]
    done: list[int] = []

    def read(number: int) -> int:
        time.sleep(seconds[number])
        return number

    with Flow[int](readers) as flow:
        for number in flow.ahead(Call(lambda number=number: read(number)) for number in range(40)):
            flow.behind(lambda number=number: done.append(number))
    assert done == list(range(40))


@pytest.mark.parametrize("readers", [0, 1, 4])
def test_as_few_pictures_are_in_memory_for_many_as_for_a_few(readers: int) -> None:
    class Picture:
        pass

    alive = weakref.WeakSet[Picture]()
    most = 0

    def read() -> Picture:
        nonlocal most
        picture = Picture()
        alive.add(picture)
        most = max(most, len(alive))
        return picture

    gc.collect()
    with Flow[Picture](readers) as flow:
        for picture in flow.ahead(Call(read) for _ in range(200)):
            time.sleep(0.0005)  # the model is slower than the readers
            flow.behind(lambda seen=picture: time.sleep(0.0001))
    assert most <= AHEAD_OF_THREADS * readers + 3  # in the model, behind it, and the next one on its way


@pytest.mark.parametrize("readers", [0, 2])
def test_the_first_error_in_the_order_of_the_pictures_is_raised(readers: int) -> None:
    def slowly() -> None:
        time.sleep(0.02)
        raise ValueError("counting picture 1")

    with pytest.raises(ValueError, match="counting picture 1"), Flow[Any](readers) as flow:
        for number in flow.ahead([Call(lambda: 0), Call(lambda: 1), failing("reading picture 2")]):
            if number == 1:
                flow.behind(slowly)
    with pytest.raises(ValueError, match="counting picture 1"), Flow[Any](readers) as flow:
        flow.behind(slowly)
        raise KeyError("picture 2 in the model")
    with pytest.raises(ValueError, match="reading picture 1"), Flow[Any](readers) as flow:
        list(flow.ahead([Call(lambda: 0), failing("reading picture 1"), failing("reading picture 2")]))


def test_who_stops_waits_for_nothing_that_has_not_begun() -> None:
    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt), Flow[None](2) as flow:
        for _ in flow.ahead(Call(lambda number=number: begun.append(number)) for number in range(1000)):
            raise KeyboardInterrupt
    assert len(begun) <= AHEAD_OF_THREADS * 2 + 1


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signals of threads")
def test_signals_come_to_the_main_thread_alone() -> None:
    def blocked() -> set[Any]:
        return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    found: list[set[Any]] = []
    with Flow[set[Any]](1) as flow:
        found += flow.ahead([Call(blocked)])
        flow.behind(lambda: found.append(blocked()))
    assert all({signal.SIGINT, signal.SIGTERM} <= mask for mask in found)
    assert not {signal.SIGINT, signal.SIGTERM} & blocked()


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(OptionError, match="--workers must be at least 0: -1"):
        Flow[None](-1)
