"""Measured seconds of a step beside those of full training, on copies: the run itself does not notice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.training.loop import Batch, Loss
from opentrans_cli.training.optimizer import build_optimizer, embeddings
from opentrans_cli.training.precision import autocast
from opentrans_cli.training.run_state import trained_parameters
from opentrans_cli.training.settings import TrainSettings
from opentrans_cli.training.step import parts_of
from opentrans_cli.training.step_timing import Timing, time_pair, training_step

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
