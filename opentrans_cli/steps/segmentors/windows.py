"""Big pictures in overlapping windows, whose scores are averaged: memory grows with the width of a picture alone.

Where windows overlap, the weight of each falls towards its edge, so that scores have no step there. A picture is done
in strips of rows, from the top of one row of windows to that of the next, and in each strip some classes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opentrans_cli.frameworks.score_chunks import MOST, MOST_OF_MASKS, Look
from opentrans_cli.steps.segmentors.picture_size import at_size
from opentrans_cli.steps.shared_options import WindowChoice

LookAt = Callable[[int, int, int, int], Look]
"""What a segmentor finds in the window of these top, left, height and width."""


@dataclass(frozen=True)
class Windows:
    """Square windows that share at least a part of their side with the next, if a picture is larger than one."""

    side: int  # pixels of the picture
    overlap: float  # share of the side, in [0, 1)

    @classmethod
    def of(cls, choice: WindowChoice) -> Windows | None:
        """Those that a user chose; None: pictures are looked at as a whole."""
        return None if choice.window is None else cls(choice.window, choice.overlap)

    def along(self, length: int) -> tuple[tuple[int, ...], int]:
        """Where windows begin along a side of `length` pixels, at even distances, and how long they are."""
        side = min(self.side, length)
        step = max(1, int(side * (1 - self.overlap)))
        steps = -(-(length - side) // step)
        return tuple(number * (length - side) // max(1, steps) for number in range(steps + 1)), side

    def one(self, image: NDArray[np.uint8]) -> bool:
        """Whether one window holds a whole picture (H, W, 3)."""
        return max(image.shape[:2]) <= self.side

    def parts(self, look: LookAt, shape: tuple[int, int], classes: int) -> Iterator[Tensor]:
        """Averaged scores (K, H, W) of some following classes at a time; what is found in all windows is held."""
        field = _Field(self, *shape)
        found = {(top, left): look(top, left, *field.shape) for top in field.tops for left in field.lefts}
        yield from field.parts(found, slice(0, shape[0]), classes)

    def strips(self, look: LookAt, shape: tuple[int, int], classes: int) -> Iterator[Iterator[Tensor]]:
        """For each strip of rows, from top to bottom, its averaged scores (K, rows, W) as in `parts`.

        What is found in windows is held as long as a strip needs it.
        """
        field = _Field(self, *shape)
        found: dict[tuple[int, int], Look] = {}
        for top, bottom in zip(field.tops, (*field.tops[1:], shape[0]), strict=True):
            found = {place: each for place, each in found.items() if place[0] + field.shape[0] > top}
            found |= {(top, left): look(top, left, *field.shape) for left in field.lefts}
            yield field.parts(found, slice(top, bottom), classes)


class _Field:
    """The windows of one picture, and their weights."""

    def __init__(self, windows: Windows, height: int, width: int) -> None:
        self.tops, down = windows.along(height)
        self.lefts, across = windows.along(width)
        self.shape, self._width = (down, across), width
        self._down, self._across = _ramps(self.tops, down), _ramps(self.lefts, across)
        self._rows, self._columns = (
            _summed(self.tops, self._down, height),
            _summed(self.lefts, self._across, width),
        )

    def parts(self, found: dict[tuple[int, int], Look], rows: slice, classes: int) -> Iterator[Tensor]:
        """Averaged scores (K, rows, W) in `rows`, from what was found in all windows that reach into them."""
        masks = any(look.queries is not None for look in found.values())
        most = max(1, (MOST_OF_MASKS if masks else MOST) // ((rows.stop - rows.start) * self._width))
        for start in range(0, classes, most):
            chosen = slice(start, min(start + most, classes))
            total: Tensor | None = None
            for (top, left), look in found.items():
                first, last = max(top, rows.start), min(top + self.shape[0], rows.stop)
                scores = at_size(look.scores(chosen)[0], *self.shape)[:, first - top : last - top]
                if total is None:
                    total = scores.new_zeros((len(scores), rows.stop - rows.start, self._width))
                weights = self._down[first - top : last - top, None] * self._across
                place = slice(left, left + self.shape[1])
                total[:, first - rows.start : last - rows.start, place] += scores * weights.to(scores.device)
            assert total is not None
            yield total.div_((self._rows[rows, None] * self._columns).to(total.device))


def _ramps(starts: tuple[int, ...], side: int) -> Tensor:
    """The weight of each pixel along a window: 1 in its middle, falling to both ends where the next one overlaps."""
    shared = max([1, *(first + side - second for first, second in pairwise(starts))])
    place = torch.arange(side) + 0.5
    return torch.minimum(place, side - place).div(shared).clamp(max=1)


def _summed(starts: tuple[int, ...], weights: Tensor, length: int) -> Tensor:
    """The sum of the weights of all windows at each place of a side."""
    total = torch.zeros(length)
    for start in starts:
        total[start : start + len(weights)] += weights
    return total
