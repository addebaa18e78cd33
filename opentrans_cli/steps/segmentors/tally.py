"""What was found on some pictures of a data set, kept so that the finds of several runs or processes can be added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class FirstPicture(NamedTuple):
    """What is told of the first picture that was scored."""

    row: int  # its number in the data set
    resolution: tuple[int, int]  # height and width to which it was resized
    macs: Mapping[str, int]  # by layer of the segmentor; {} if they were not asked for


@dataclass
class Tally:
    """What was found on some rows of a data set. Tallies of different rows can be added, in any order."""

    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)  # by name; exact, so that sums are exact
    seconds: dict[int, float] = field(default_factory=dict)  # by row, of the pictures that were scored
    skipped: dict[int, str] = field(default_factory=dict)  # by row: which picture was left out, and what is wrong
    first: FirstPicture | None = None

    @property
    def rows(self) -> frozenset[int]:
        """The samples that were looked at."""
        return frozenset((*self.seconds, *self.skipped))

    def add(self, other: Tally) -> bool:
        """Add what was found on other rows; False, with nothing added, if some of the rows are the same."""
        if self.rows & other.rows:
            return False
        for name, counts in other.counts.items():
            self.counts[name] = self.counts[name] + counts if name in self.counts else counts.copy()
        self.seconds |= other.seconds
        self.skipped |= other.skipped
        self.first = min(filter(None, (self.first, other.first)), key=lambda first: first.row, default=None)
        return True

    def packed(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """It as arrays by name and as JSON; see `unpacked`."""
        rows = np.array([*self.seconds], np.int64)
        arrays = {"rows": rows, "seconds": np.array([*self.seconds.values()], np.float64)}
        facts = {"skipped": [[row, text] for row, text in self.skipped.items()], "first": self.first}
        return {**arrays, **{f"counts.{name}": counts for name, counts in self.counts.items()}}, facts

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Tally:
        """What `packed` gave, after a way through a file."""
        counts = {name.removeprefix("counts."): array for name, array in arrays.items() if name.startswith("counts.")}
        seconds = dict(zip(arrays["rows"].tolist(), arrays["seconds"].tolist(), strict=True))
        first = facts["first"]
        return cls(
            counts,
            seconds,
            {row: text for row, text in facts["skipped"]},
            first and FirstPicture(first[0], (first[1][0], first[1][1]), first[2]),
        )


def added(tallies: Iterable[Tally]) -> Tally:
    """The sum of tallies of different rows."""
    total = Tally()
    for tally in tallies:
        assert total.add(tally), "two processes have looked at one picture"
    return total
