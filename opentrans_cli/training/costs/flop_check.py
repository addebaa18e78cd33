"""The cost of training by torch's own counter, to compare with our formulas.

torch.utils.flop_counter.FlopCounterMode counts the kernels that a real forward and backward pass start, here on the
meta device. Its figures are FLOPs: twice the MACs. It differs from macs.py as follows:

- The weight gradient of a grouped convolution is over-counted `groups` times. Corrected here.
- `nn.MultiheadAttention` on its fast path counts nothing. The fast path is off while counting.
- The backward pass of fused attention is counted with the scores it computes a second time, 2.5 times the forward
  pass instead of 2. On the meta device attention is not fused, so this does not arise.
- grid_sample, interpolation, pooling, norms and activations count nothing, in macs.py as well. This
  includes the samples of deformable attention: they are read by grid_sample and weighted element by element.
- Zero weights count like any others: the counter gives dense figures only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_backward_flop

FLOPS_PER_MAC = 2
_TO_INPUT, _TO_WEIGHT = (True, False, False), (False, True, False)


def torch_macs(
    model: nn.Module,
    *shapes: tuple[int, ...],
    arguments: Callable[..., tuple[Any, ...]] | None = None,
) -> int:
    """MACs of one forward and backward pass, the loss being the sum of all outputs; arguments as for `count_macs`.

    Runs on the meta device; `model` does not change.
    """
    tensors = {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    inputs = tuple(torch.empty(shape, device="meta") for shape in shapes)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _grouped_backward})
    with _no_fast_path(), torch.enable_grad(), counter:
        outputs = torch.func.functional_call(model, tensors, arguments(*inputs) if arguments else inputs)
        learning = [output.sum() for output in _tensors(outputs) if output.requires_grad]
        if learning:
            torch.autograd.backward(torch.stack(learning).sum())
    return int(counter.get_total_flops()) // FLOPS_PER_MAC


def _grouped_backward(*given: Any, out_shape: Any) -> int:
    """torch's figure for a convolution's backward pass, with the weight gradient's divided by the groups.

    The arguments are shapes in place of tensors. For the weight gradient, torch multiplies every input channel by every
    output channel; for the input gradient it does not.
    """
    *facts, groups, wanted = given
    count: Any = conv_backward_flop
    to_input, to_weight = (
        int(count(*facts, groups, [need and part for need, part in zip(wanted, only, strict=True)], out_val=out_shape))
        for only in (_TO_INPUT, _TO_WEIGHT)
    )
    return to_input + to_weight // int(groups)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Return all tensors in the output of a model, in any containers."""
    if isinstance(output, Tensor):
        yield output
        return
    parts: Sequence[Any] = ()
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, list | tuple):
        parts = output
    elif is_dataclass(output):
        parts = [getattr(output, field.name) for field in fields(output)]
    for part in parts:
        yield from _tensors(part)


@contextmanager
def _no_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
