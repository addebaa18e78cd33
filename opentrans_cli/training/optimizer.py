"""Optimizers for parameters that are not frozen: weight decay, learning rates by group, and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from opentrans_cli.training.processes.sharding import whole
from opentrans_cli.training.settings import TrainSettings

# Learning rates as functions of the step alone, so that a resumed run needs no memory of them.


_POWER = 0.9  # exponent of "poly", as in DeepLab


def rate_at(settings: TrainSettings, step: int) -> float:
    """Learning rate of step `step` (from 0) / `settings.lr`, in [0, 1].

    constant: 1. cosine: half a wave, from 1 down to 0 after the last step. poly: (1 - step / steps) ** 0.9. steps:
    falls by `gamma` at round(share * steps) for each of the milestones. All times a linear rise over the warm-up.
    """
    warmup = min(1.0, (step + 1) / settings.lr_warmup_steps) if settings.lr_warmup_steps else 1.0
    return warmup * _after_warmup(settings, step)


def _after_warmup(settings: TrainSettings, step: int) -> float:
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    if settings.schedule == "poly":
        return float((1 - step / settings.steps) ** _POWER)
    if settings.schedule == "steps":
        passed = sum(step >= round(share * settings.steps) for share in settings.milestones)
        return float(settings.gamma**passed)
    return 1.0


def build_optimizer(
    trained: Mapping[str, nn.Parameter], settings: TrainSettings, *, embeddings: frozenset[str] = frozenset()
) -> torch.optim.Optimizer:
    """Build the optimizer of `trained` (by name); like vectors, the parameters named in `embeddings` do not decay.

    Tensors of one dimension or none (norms, biases, scalars) and embeddings do not decay, as in Mask2Former's
    configuration, unless the settings say `decay_all`. The backbone, found by the prefix of its names, has a lower
    learning rate. Each group has `factor`, its learning rate / `settings.lr`.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trained.items():
        decays = settings.decay_all or (parameter.ndim > 1 and name not in embeddings)
        groups.setdefault((name.startswith(settings.backbone_prefix), decays), []).append(parameter)
    described = [
        {
            "params": parameters,
            "factor": settings.backbone_lr_factor if in_backbone else 1.0,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_backbone, decays), parameters in groups.items()
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(described, lr=settings.lr, momentum=settings.momentum)
    return torch.optim.AdamW(described, lr=settings.lr)


def embeddings(module: nn.Module) -> frozenset[str]:
    """Names of the embeddings inside `module`: tables of nn.Embedding, and parameters named as embeddings."""
    tables = {
        f"{name}.weight".removeprefix(".") for name, part in module.named_modules() if isinstance(part, nn.Embedding)
    }
    called = {name for name, _ in module.named_parameters() if "embed" in name.rpartition(".")[2]}
    return frozenset(tables | called)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group `rate` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """All gradients that exist."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, 0-d; if they are sharded, of the whole ones, in every process."""
    return whole(torch.nn.utils.get_total_norm(gradients))


def clip_gradients(gradients: list[Tensor], norm: float, *, limit: float, scale: float) -> None:
    """Divide the gradients by `scale`, then clip them from norm `norm` (after the division) to `limit`; 0: no limit."""
    factor = (min(1.0, limit / (norm + 1e-6)) if limit else 1.0) / scale
    if factor != 1:
        torch._foreach_mul_(gradients, factor)
