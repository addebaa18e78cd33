"""How sure a segmentor is of the class of each pixel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Unsure(NamedTuple):
    """What a pixel is of whose class a segmentor is not sure."""

    threshold: float  # least probability, in (0, 1]
    label: int  # class index of the others


class Certainty:
    """The probability of the best class at every pixel, from the scores of all.

    Where scores are logits, it is that of the softmax over the classes. Those of frameworks of masks are probabilities
    already: of a class times that of a mask, summed over the queries.
    """

    def __init__(self, *, logits: bool) -> None:
        self._logits = logits
        self._top: Tensor | None = None
        self._sum: Tensor | None = None

    def add(self, part: Tensor) -> None:
        """Takes the scores of the next classes, (K, H, W)."""
        top = part.amax(0) if self._top is None else torch.maximum(self._top, part.amax(0))
        if self._logits:
            total = (part - top).exp_().sum(0)
            if self._top is not None and self._sum is not None:
                total += self._sum * (self._top - top).exp()
            self._sum = total
        self._top = top

    def map(self) -> Tensor:
        """The probability at every pixel, float32 (H, W), on the CPU."""
        assert self._top is not None
        return (self._top if self._sum is None else 1 / self._sum).cpu()
