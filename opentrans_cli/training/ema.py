"""Averages of the trained parameters over the steps, which often segment better than the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from opentrans_cli.training.processes.sharding import local_tensor


class Average:
    """Exponential moving averages of `trained`, by name; they start as the parameters are at the first `update`.

    The decay of the n-th update (from 0) is min(decay, (1 + n) / (10 + n)): a short run would otherwise end with the
    average of what it began with. A weight that was zero at every update is exactly zero.
    """

    def __init__(self, trained: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {name: p.detach().clone() for name, p in trained.items()}
        self._parameters = [local_tensor(parameter) for parameter in trained.values()]
        self._averages = [local_tensor(tensor) for tensor in self.tensors.values()]

    def begin(self) -> None:
        """Take the parameters as they are."""
        torch._foreach_copy_(self._averages, self._parameters)

    def update(self, number: int) -> None:
        """Move towards the parameters; `number` counts the updates from 0."""
        decay = min(self.decay, (1 + number) / (10 + number))
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def fill(self) -> None:
        """Write the averages into the parameters."""
        torch._foreach_copy_(self._parameters, self._averages)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the parameters are the averages."""
        before = [parameter.clone() for parameter in self._parameters]
        self.fill()
        try:
            yield
        finally:
            torch._foreach_copy_(self._parameters, before)
