"""A finding: something to know about the data, how bad it is, and the next move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["fault", "warning", "note"]
LEVELS: tuple[Level, ...] = ("fault", "warning", "note")
"""A fault keeps training and scoring from working, a warning may spoil them, a note changes nothing."""


@dataclass(frozen=True)
class Finding:
    """Something to know about the data, and what to do about it."""

    kind: str
    level: Level
    what: str  # one phrase
    move: str  # what to do; "" where nothing need be done
    names: tuple[str, ...] = ()  # all files it is about, each relative to its folder, or all classes


def counted(number: int, one: str, many: str = "") -> str:
    """1, "photo" -> "1 photo"; 2, "photo" -> "2 photos"; `many` where another letter than s is added."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
