"""The loop of distillation: optimizer steps whose loss is a function of the step, with the masks held after each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from opentrans_cli.errors import TrainingError

StepLoss = Callable[[int], tuple[Tensor, dict[str, float]]]
"""Step, from 0 -> its loss (0-d, with gradients) and the terms it is made of."""


@dataclass(frozen=True)
class DistillSettings:
    """How one pruning run distils.

    The learning rate is flat while rounds still remove weights, and falls to 0 over the last round: the damage grows
    with the sparsity, so the late rounds must not be the ones that learn least.
    """

    steps: int  # optimizer steps in each round but the last
    final_steps: int  # optimizer steps in the last round, at the target sparsity
    rounds: int
    lr: float
    weight_decay: float = 0.0
    grad_clip: float = 0.0  # largest L2 norm of all gradients together; 0: no clipping

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.first_step(self.rounds - 1) + self.final_steps

    def first_step(self, number: int) -> int:
        """The first step of round `number`, both counted from 0."""
        return self.steps * number

    def steps_of(self, number: int) -> range:
        """The steps of round `number`, both counted from 0."""
        first = self.first_step(number)
        return range(first, first + (self.final_steps if number == self.rounds - 1 else self.steps))


@dataclass(frozen=True)
class StepLog:
    """One optimizer step."""

    step: int  # from 0, over all rounds
    loss: float
    lr: float
    terms: dict[str, float] = field(default_factory=dict)  # of the loss, before any weighting


def learning_rate(settings: DistillSettings, step: int) -> float:
    """`lr` after a short warm-up of at most 20 steps, then half a cosine down to 0 over the last round."""
    warmup = min(20, max(1, settings.total // 10))
    last = max(0, step - settings.first_step(settings.rounds - 1)) / settings.final_steps
    return settings.lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * last))


def make_optimizer(parameters: Iterable[nn.Parameter], settings: DistillSettings) -> torch.optim.AdamW:
    """AdamW over what distillation trains: the whole tower (BatchNorm affine and attention pool recover with the
    layers that lost weights) and what a loss learns beside it.
    """
    return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def distill_round(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: DistillSettings,
    *,
    number: int,
    loss: StepLoss,
    after_step: Callable[[], None],
    reduce: Callable[[float], float] = lambda value: value,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    on_step: Callable[[StepLog], None] = lambda log: None,
) -> list[StepLog]:
    """Train `module` for round `number` (from 0) in place and leave it in eval mode; one entry a step.

    `after_step` holds the masks. `reduce` averages the loss over processes, so that all of them log the same and stop
    together. Raises TrainingError naming the step if the loss is not finite; `module` is then not fit to go on with.
    """
    module.train()
    logs = []
    for step in settings.steps_of(number):
        rate = learning_rate(settings, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with autocast():
            value, terms = loss(step)
        amount = reduce(float(value.detach()))
        if not math.isfinite(amount):
            raise TrainingError(f"distillation loss is {amount}: step {step}, round {number + 1}; lower --lr")
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if settings.grad_clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), settings.grad_clip)
        optimizer.step()
        after_step()
        logs.append(StepLog(step, amount, rate, terms))
        on_step(logs[-1])
    module.eval()
    return logs


def final_loss(logs: list[StepLog]) -> float:
    """Mean loss of the last quarter of the steps."""
    last = logs[-max(1, len(logs) // 4) :]
    return sum(log.loss for log in last) / len(last)
