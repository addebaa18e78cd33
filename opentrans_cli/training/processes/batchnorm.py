"""BatchNorm over the batches of all processes, as one process would compute it on all of them together.

torch's own nn.SyncBatchNorm refuses tensors on the CPU; this works wherever torch.distributed does. Shapes: inputs
(B, C, ...), statistics (C,). Counts may differ between processes. Every process must take part in every call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from opentrans_cli.errors import OptionError


class Statistics(NamedTuple):
    """Statistics of each channel over all processes; float32, or float64 if the inputs are float64."""

    mean: Tensor
    variance: Tensor  # biased variance, used to normalise
    values: Tensor  # 0-d, number of values per channel


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose batch, in train mode, is that of all processes; in eval mode nothing differs.

    Running statistics end with the same bits in every process.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, dtype and memory format."""
        if not self.training:
            return super().forward(inputs)
        self._check_input_dim(inputs)
        statistics = global_statistics(inputs.detach())
        if self.track_running_stats:
            self._track(statistics)
        normalised: Tensor = _Normalise.apply(inputs, self.weight, self.bias, *statistics, self.eps)
        return normalised

    @torch.no_grad()
    def _track(self, statistics: Statistics) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = statistics.variance * (statistics.values / (statistics.values - 1))
        self.running_mean.mul_(1 - share).add_(statistics.mean, alpha=share)
        self.running_var.mul_(1 - share).add_(unbiased, alpha=share)


def share_statistics(module: nn.Module) -> None:
    """Make every BatchNorm inside `module` a global one, in place; parameters, buffers, hooks and names stay.

    Raises OptionError naming the first of another class than nn.BatchNorm2d, before changing anything.
    """
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
    for name, part in found:
        if type(part) not in (nn.BatchNorm2d, GlobalBatchNorm2d):
            raise OptionError(
                f"no global statistics for this BatchNorm: '{name}' is {type(part).__name__}; run in one process"
            )
    for _, part in found:
        # A new module in its place would lose the hooks, and references to the old module would no longer work.
        part.__class__ = GlobalBatchNorm2d


def own_statistics(module: nn.Module) -> None:
    """Undo `share_statistics`."""
    for part in module.modules():
        if isinstance(part, GlobalBatchNorm2d):
            part.__class__ = nn.BatchNorm2d  # type: ignore[assignment]


def global_statistics(inputs: Tensor) -> Statistics:
    """Statistics of `inputs` (B, C, ...) over all processes, the same bits in each.

    Means and centred squares are merged as by Chan, Golub and LeVeque (1979): a sum of raw squares loses the variance
    where the mean is large.
    """
    wide = _wide(inputs)
    variance, mean = torch.var_mean(wide, _all_but_channels(inputs), correction=0)
    values = mean.new_full((1,), wide.numel() // len(mean), dtype=torch.float64)
    own = torch.cat([mean.double(), variance.double(), values])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    means, variances, counts = torch.stack(parts).split([len(mean), len(mean), 1], dim=1)
    weights = counts / counts.sum()
    merged = (weights * means).sum(0)
    spread = (weights * (variances + (means - merged).square())).sum(0)
    # Everything stays on the device: reading a number would make the host wait at every layer.
    return Statistics(merged.to(mean.dtype), spread.to(mean.dtype), counts.sum().to(mean.dtype))


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, where the statistics depend on x in all processes.

    The gradient of x is that of the sum of all processes' losses; those of weight and bias are this process's share.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        values: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(inputs, weight, mean, (variance + eps).rsqrt(), values)
        return F.batch_norm(inputs, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, inverse, values = ctx.saved_tensors
        dims = _all_but_channels(inputs)
        normalised = (_wide(inputs) - _channels(mean, inputs)).mul_(_channels(inverse, inputs))
        upstream = _wide(gradient)
        bias_gradient, weight_gradient = upstream.sum(dims), (upstream * normalised).sum(dims)
        sums = torch.stack([bias_gradient, weight_gradient])
        dist.all_reduce(sums)
        constant, slope = sums / values
        scale = inverse if weight is None else inverse * weight
        result = (upstream - normalised.mul_(_channels(slope, inputs))).sub_(_channels(constant, inputs))
        result = result.mul_(_channels(scale, inputs)).to(inputs.dtype)
        needed = ctx.needs_input_grad
        return (
            result if needed[0] else None,
            weight_gradient.to(weight.dtype) if needed[1] else None,
            bias_gradient.to(weight.dtype) if needed[2] else None,
            *[None] * 4,
        )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _all_but_channels(tensor: Tensor) -> list[int]:
    return [0, *range(2, tensor.ndim)]


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 2))
