"""Measured seconds of a training step of a run and of full training as its control, on copies of the model.

The steps alternate, so that a busy machine or a hot processor slows both equally.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import nn

from opentrans_cli.training.loop import Batch, Loss
from opentrans_cli.training.processes.distributed import World
from opentrans_cli.training.run_state import RunState
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.step import Stepper

_BATCHES = 2  # number of batches, which the steps use in turn

Step = Callable[[], Any]


class StepTimer:
    """Times steps. Create it before layers are frozen, so that the control has none frozen; call `time` afterwards."""

    def __init__(
        self,
        trained: nn.Module,
        loss: Callable[[nn.Module], Loss],
        settings: TrainSettings,
        holder: Callable[[Any], Callable[[], None]],
        *,
        steps: int,
    ) -> None:
        """holder: makes what holds the masks of a copy. steps: pairs that are timed; with 0 nothing is copied."""
        self._trained, self._loss, self._settings, self._holder, self._steps = trained, loss, settings, holder, steps
        self._full = copy.deepcopy(trained) if steps else None

    def time(
        self, batch_of: Callable[[int], Batch], full_batch_of: Callable[[int], Batch], device: torch.device
    ) -> Timing | None:
        """Measure steps of the run and its control on the first batches, in one process only; None if `steps` was 0."""
        if self._full is None:
            return None
        run = self._step(copy.deepcopy(self._trained), batch_of, device)
        control = self._step(self._full, full_batch_of, device)
        self._full = None
        return time_pair(run, control, steps=self._steps, device=device)

    def _step(self, copied: nn.Module, batch_of: Callable[[int], Batch], device: torch.device) -> Step:
        state = RunState(copied.train(), self._settings, World(device), identity=None, notes=None)
        stepper, hold = Stepper(state, self._loss(copied)), self._holder(copied)
        batches = cycle([batch_of(number) for number in range(_BATCHES)])

        def step() -> None:
            stepper.take(next(batches))
            hold()

        return step


@dataclass(frozen=True)
class Timing:
    """Seconds of paired steps."""

    run: tuple[float, ...]  # by pair
    control: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median over the pairs of the run's seconds divided by the control's."""
        return median(run / control for run, control in zip(self.run, self.control, strict=True))

    def to_json(self) -> dict[str, Any]:
        """As JSON values; seconds are medians."""
        return {
            "pairs": len(self.run),
            "run_seconds": median(self.run),
            "full_seconds": median(self.control),
            "ratio": self.ratio,
        }


def time_pair(run: Step, control: Step, *, steps: int, device: torch.device | None = None) -> Timing:
    """Call both `steps` times, in the order run, control, control, run, ..., after one call of each that is not timed.

    steps: at least 1. device: what to wait for before the clock is read. The caller's random number generators
    are not changed.
    """
    if steps < 1:
        raise ValueError(f"at least one pair is needed, got {steps}")
    both: tuple[tuple[Step, list[float]], ...] = ((run, []), (control, []))
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for step, _ in both:
            step()
        for pair in range(steps):
            for step, seconds in both if pair % 2 == 0 else both[::-1]:
                seconds.append(_seconds(step, device))
    return Timing(tuple(both[0][1]), tuple(both[1][1]))


def _seconds(step: Step, device: torch.device | None) -> float:
    _wait(device)
    before = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - before


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).synchronize()
