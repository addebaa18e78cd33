"""What a progress bar says of training: how fast, the loss and its terms, the last mIoU."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

from opentrans_cli.training.loop import StepFigures

_STEPS = 20  # last ones the speed is that of


class StepStatus:
    """The figures of the last step as one short text."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_STEPS)
        self._last: StepFigures | None = None
        self._miou: float | None = None

    def step(self, figures: StepFigures) -> None:
        """A step was taken."""
        self._last = figures
        self._seconds.append(figures.seconds)

    def evaluation(self, figures: Mapping[str, float]) -> None:
        """The segmentor was scored."""
        self._miou = figures.get("miou", self._miou)

    @property
    def steps_per_second(self) -> float:
        """Of the last steps, by their median; 0 before the first."""
        seconds = median(self._seconds) if self._seconds else 0.0
        return 1 / seconds if seconds else 0.0

    def text(self) -> str:
        """Such as "3.21 steps/s, loss 1.23 (classes 0.61, mask 0.32, dice 0.30), mIoU 34.5"; empty before all."""
        parts = []
        if self._last is not None:
            terms = ", ".join(f"{name} {value:.3g}" for name, value in self._last.terms.items())
            apart = f" ({terms})" if len(self._last.terms) > 1 else ""
            parts = [f"{self.steps_per_second:.3g} steps/s", f"loss {self._last.loss:.4g}{apart}"]
        if self._miou is not None:
            parts.append(f"mIoU {100 * self._miou:.1f}")
        return ", ".join(parts)
