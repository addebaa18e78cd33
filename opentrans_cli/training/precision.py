"""Forward passes in half precision, and the scale that keeps float16 gradients from vanishing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from opentrans_cli.training.settings import Precision

_GROWTH, _BACK_OFF, _INTERVAL = 2.0, 0.5, 2000


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Inside, torch computes in `precision` where that is safe; parameters and their gradients stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bfloat16" else torch.float16)


class LossScale:
    """What the loss is multiplied by before the backward pass: 1, or for float16 as torch's GradScaler has it.

    Halved with every gradient that is not finite, doubled after 2000 steps without one; a power of two, so that
    dividing the gradients by it is exact. Ours counts in the norm that clipping needs anyway, and is the same number
    in every process.
    """

    def __init__(self, precision: Precision) -> None:
        self.changes = precision == "float16"
        self.value = 2.0**16 if self.changes else 1.0
        self.good_steps = 0  # since it last changed

    def back_off(self) -> bool:
        """After gradients that were not finite: whether leaving the step out is enough to go on."""
        self.value *= _BACK_OFF if self.changes else 1.0
        self.good_steps = 0
        return self.changes and self.value >= 1

    def count_good(self) -> None:
        """After a step that was taken."""
        self.good_steps += 1
        if self.changes and self.good_steps == _INTERVAL:
            self.value, self.good_steps = self.value * _GROWTH, 0

    def state(self) -> dict[str, float]:
        """Numbers to go on from."""
        return {"value": self.value, "good_steps": self.good_steps} if self.changes else {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from `state`."""
        if self.changes:
            self.value, self.good_steps = float(state["value"]), int(state["good_steps"])
