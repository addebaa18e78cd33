"""The running statistics of BatchNorms, kept for the case that a step fails.

A forward pass with NaN or infinite activations reaches them before the loss is seen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningStatistics:
    """A copy of those inside `module`, whose buffers must stay the same tensors."""

    def __init__(self, module: nn.Module) -> None:
        norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        # Tensors of one dtype are copied in one launch, of several one by one.
        kinds = {buffer.dtype for buffer in buffers}
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []
        for kind in kinds:
            own = [buffer for buffer in buffers if buffer.dtype is kind]
            self._pairs.append((own, [buffer.clone() for buffer in own]))

    @torch.no_grad()
    def keep(self) -> None:
        """Remember them as they are."""
        for own, kept in self._pairs:
            torch._foreach_copy_(kept, own)

    @torch.no_grad()
    def restore(self) -> None:
        """Make them what they were at the last `keep`."""
        for own, kept in self._pairs:
            torch._foreach_copy_(own, kept)
