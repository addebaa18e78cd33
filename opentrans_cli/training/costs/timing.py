"""Measured seconds of a training step of a run and of its full twin, taken in turn, so that a busy machine or a warming
processor slows both alike.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.training.loop import Batch, Loss
from opentrans_cli.training.optimizer import build_optimizer, embeddings
from opentrans_cli.training.precision import autocast
from opentrans_cli.training.run_state import trained_parameters
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.step import parts_of

# Measured seconds of a step beside those of full training, on copies: the run itself does not notice.


_BATCHES = 2  # that the steps go through in turn


class StepTimer:
    """Made before layers are frozen, so that there is a full twin; `time` it after."""

    def __init__(
        self,
        trained: nn.Module,
        loss: Callable[[nn.Module], Loss],
        settings: TrainSettings,
        holder: Callable[[Any], Callable[[], None]],
        *,
        steps: int,
    ) -> None:
        """steps: pairs that are timed; with 0 nothing is copied."""
        self._trained, self._loss, self._settings, self._holder, self._steps = trained, loss, settings, holder, steps
        self._full = copy.deepcopy(trained) if steps else None

    def time(
        self, batch_of: Callable[[int], Batch], full_batch_of: Callable[[int], Batch], device: torch.device
    ) -> Timing | None:
        """Seconds of steps of both on the first batches; None if nothing was to be timed."""
        if self._full is None:
            return None
        run = self._step(self._trained, batch_of, device)
        full = self._step(self._full, full_batch_of, device)
        self._full = None
        return time_pair(run, full, steps=self._steps, device=device)

    def _step(self, module: nn.Module, batch_of: Callable[[int], Batch], device: torch.device) -> Callable[[], Any]:
        turn = cycle([tuple(tensor.to(device) for tensor in batch_of(step)) for step in range(_BATCHES)])

        def losses_of(copied: nn.Module) -> Callable[[], Iterator[Tensor]]:
            loss = self._loss(copied)

            def of_parts() -> Iterator[Tensor]:
                batch = next(turn)
                with torch.no_grad():
                    whole = loss.whole(batch)
                for part in parts_of(batch, self._settings.accumulate):
                    with autocast(part[0].device, self._settings.precision):
                        terms = loss(part, whole)
                    yield torch.stack([term.float() for term in terms.values()]).sum()

            return of_parts

        return training_step(
            module,
            losses_of,
            optimizer=self._optimizer,
            after_step=self._holder,
            grad_clip=self._settings.grad_clip,
        )

    def _optimizer(self, copied: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(trained_parameters(copied), self._settings, embeddings=embeddings(copied))


Step = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Seconds of paired steps."""

    run: tuple[float, ...]  # by pair
    twin: tuple[float, ...]

    @property
    def run_seconds(self) -> float:
        """Median of a step of the run."""
        return median(self.run)

    @property
    def twin_seconds(self) -> float:
        """Median of a step of the full twin."""
        return median(self.twin)

    @property
    def ratio(self) -> float:
        """Median over the pairs of the run's seconds by the twin's: what is left of the time of full training."""
        return median(run / twin for run, twin in zip(self.run, self.twin, strict=True))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "pairs": len(self.run),
            "run_seconds": self.run_seconds,
            "full_seconds": self.twin_seconds,
            "ratio": self.ratio,
        }


def time_pair(run: Step, twin: Step, *, steps: int, device: torch.device | None = None) -> Timing:
    """Call both `steps` times, in the order run, twin, twin, run, ..., after one call of each that is not timed.

    steps: at least 1. device: what to wait for before the clock is read. The random numbers of the caller go on as if
    nothing had been called.
    """
    if steps < 1:
        raise ValueError(f"at least one pair is needed, got {steps}")
    both: tuple[tuple[Step, list[float]], ...] = ((run, []), (twin, []))
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        for step, _ in both:
            step()
        for pair in range(steps):
            for step, seconds in both if pair % 2 == 0 else both[::-1]:
                seconds.append(_seconds(step, device))
    return Timing(tuple(both[0][1]), tuple(both[1][1]))


def training_step(
    model: nn.Module,
    losses: Callable[[nn.Module], Callable[[], Iterable[Tensor]]],
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    after_step: Callable[[nn.Module], Callable[[], None]] | None = None,
    grad_clip: float = 0.0,
) -> Step:
    """A step of training of a copy of `model`, which itself stays as it is.

    losses, optimizer and after_step are made for the copy; what `losses` makes gives the losses of one batch, 0-d, part
    by part. grad_clip: largest L2 norm of all gradients together; 0: no clipping.
    """
    trained = copy.deepcopy(model).train()
    losses_of, update = losses(trained), optimizer(trained)
    hold = None if after_step is None else after_step(trained)

    def step() -> None:
        update.zero_grad(set_to_none=True)
        for loss in losses_of():
            torch.autograd.backward(loss)
        if grad_clip:
            nn.utils.clip_grad_norm_(trained.parameters(), grad_clip)
        update.step()
        if hold is not None:
            hold()

    return step


def _seconds(step: Step, device: torch.device | None) -> float:
    _wait(device)
    before = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - before


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()
