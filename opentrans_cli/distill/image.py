"""Label-free image distillation: the subnet's image embeddings are pulled back to the dense tower's.

The loss is the first term of the paper's distillation loss (OpenTrans, Sec. 3.2: distance of visual embeddings), on
whole images instead of labelled regions, so that pruning needs neither labels nor a segmentation framework. Teacher
and student embeddings are attention-pooled and L2-normalised; the teacher's are computed once, the inputs being fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.errors import TrainingError

Normalise = Callable[[Tensor], Tensor]
"""uint8 (B, S, S, 3) -> normalised float (B, 3, S, S)."""


@dataclass(frozen=True)
class DistillSettings:
    """How one pruning run distils.

    The learning rate is flat while rounds still remove weights, and falls to 0 over the last round: the damage grows
    with the sparsity, so the late rounds must not be the ones that learn least.
    """

    steps: int  # optimizer steps in each round but the last
    final_steps: int  # optimizer steps in the last round, at the target sparsity
    rounds: int
    batch_size: int
    lr: float
    seed: int
    weight_decay: float = 0.0

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        return self.first_step(self.rounds - 1) + self.final_steps

    def first_step(self, number: int) -> int:
        """The first step of round `number`, both counted from 0."""
        return self.steps * number

    def steps_of(self, number: int) -> int:
        """Optimizer steps of round `number`, counted from 0."""
        return self.final_steps if number == self.rounds - 1 else self.steps


@torch.no_grad()
def embed(visual: nn.Module, images: Tensor, normalise: Normalise, *, batch_size: int = 256) -> Tensor:
    """Unit-length embeddings (N, D) of uint8 images (N, S, S, 3), S the tower's own size; eval mode."""
    visual.eval()
    device = next(visual.parameters()).device
    parts = [F.normalize(visual(normalise(part.to(device))), dim=-1) for part in images.split(batch_size)]
    return torch.cat(parts)


def learning_rate(settings: DistillSettings, step: int) -> float:
    """`lr` after a short warm-up of at most 20 steps, then half a cosine down to 0 over the last round."""
    warmup = min(20, max(1, settings.total // 10))
    last = max(0, step - settings.first_step(settings.rounds - 1)) / settings.final_steps
    return settings.lr * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * last))


def make_optimizer(visual: nn.Module, settings: DistillSettings) -> torch.optim.AdamW:
    """AdamW over every parameter of the tower (BatchNorm affine and attention pool recover with the convolutions)."""
    return torch.optim.AdamW(visual.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)


def distill_round(
    visual: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: DistillSettings,
    *,
    images: Tensor,
    teacher: Tensor,
    normalise: Normalise,
    batch_of: Callable[[int], np.ndarray],
    number: int,
    after_step: Callable[[], None],
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> float:
    """Train `visual` for round `number` (from 0) in place; returns the mean loss of its last quarter.

    `images` uint8 (N, S, S, 3); `teacher` unit rows (N, D); `batch_of(step)` gives the indices of a step as a function
    of the step alone; `after_step` holds the masks. The loss is the squared distance of unit vectors, in [0, 4].
    Raises TrainingError naming the step if the loss is not finite.
    """
    visual.train()
    device = next(visual.parameters()).device
    losses: list[float] = []
    first_step = settings.first_step(number)
    for step in range(first_step, first_step + settings.steps_of(number)):
        rows = torch.from_numpy(np.asarray(batch_of(step)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, step)
        student = F.normalize(visual(normalise(images[rows].to(device))), dim=-1)
        loss = (student - teacher[rows].to(device)).square().sum(-1).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"distillation loss is {value}: step {step}; lower --lr and start again")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        after_step()
        losses.append(value)
        on_step(step, value)
    visual.eval()
    return float(np.mean(losses[-max(1, len(losses) // 4) :]))
