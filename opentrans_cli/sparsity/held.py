"""Masks on parameters wherever they are: looked up anew each time, so that a module may move, be cast, or load.

`masking.py` does the same for CLIP's own names and a module that stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Held:
    """Some rows of one parameter, and which of their entries a mask removes."""

    def __init__(self, layer: str, owner: nn.Module, name: str, pruned: Tensor, rows: slice | None = None) -> None:
        self.layer = layer  # as the bundle calls it
        self._owner, self._name, self._rows = owner, name, rows
        self._pruned = pruned  # bool in the shape of the rows, True = removed

    @property
    def parameter(self) -> Tensor:
        """The whole parameter, or buffer, as it is now."""
        tensor: Tensor = getattr(self._owner, self._name)
        return tensor

    def both(self) -> tuple[Tensor, Tensor]:
        """The weight, a view of the parameter, and what is removed of it, on the same device in the same layout."""
        weight = self.parameter.detach()
        weight = weight if self._rows is None else weight[self._rows]
        if self._pruned.device != weight.device or self._pruned.stride() != weight.stride():
            self._pruned = torch.empty_like(weight, dtype=torch.bool).copy_(self._pruned)
        return weight, self._pruned


@torch.no_grad()
def fill(held: Iterable[Held]) -> None:
    """Set what is removed to zero; also where it is NaN."""
    for one in held:
        weight, pruned = one.both()
        weight.masked_fill_(pruned, 0.0)


@torch.no_grad()
def first_regrown(held: Iterable[Held]) -> str | None:
    """The first layer with a removed weight that is not zero (nor is NaN); None if there is none."""
    held = tuple(held)
    flags = []
    for one in held:
        weight, pruned = one.both()
        flags.append(((weight != 0) & pruned).any())
    # One transfer for all: asking layer by layer would wait for the accelerator as often.
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    return next((one.layer for one, regrown in zip(held, found, strict=True) if regrown), None)
