"""What the tests of several steps need: short runs, an interruption at a chosen moment, folders compared as bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from opentrans_cli.steps.options import PruneOptions


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """A folder as name -> bytes, hidden files included."""

    def read(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read


@pytest.fixture(scope="session")
def distilled() -> Callable[..., PruneOptions]:
    """Options of a run of four rounds (0.1, 0.19, 0.271, 0.3) with two steps in each."""

    def options(**changes: object) -> PruneOptions:
        given = {"images": "shapes", "image_limit": 8, "batch_size": 4, "steps_per_round": 2, "final_steps": 2}
        return PruneOptions(**{"source": "tiny", "sparsity": 0.3, **given, **changes})  # type: ignore[arg-type]

    return options


class Interruption:
    """A reporter that raises KeyboardInterrupt at unit `at` (from 1) of the bar number `bar` (from 1)."""

    def __init__(self, *, bar: int, at: int) -> None:
        self.remaining, self.at = bar, at

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Callable[[str], None]]:
        self.remaining -= 1
        done = 0

        def advance(status: str) -> None:
            nonlocal done
            done += 1
            if self.remaining == 0 and done == self.at:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="session")
def interruption() -> type[Interruption]:
    return Interruption
