"""Masks on parameters wherever they are: looked up anew each time, so that a module may move, be cast, load, or be
spread over processes (FSDP2), where each of them looks after its own share.

`masking.py` does the same for CLIP's own names. A weight is set to zero by its bits: anding them is a plain stream of
memory, four times as fast as torch's masked_fill on a CPU, and unlike multiplying it makes a zero of NaN too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a weight


class Held:
    """Some rows of one parameter, and which of their entries a mask removes."""

    def __init__(self, layer: str, owner: nn.Module, name: str, pruned: Tensor, rows: slice | None = None) -> None:
        self.layer = layer  # as the bundle calls it
        self._owner, self._name, self._rows = owner, name, rows
        self._kept = (~pruned).to(torch.int8).neg_()  # all bits set where kept, none where removed
        self._share: tuple[object, object, Tensor] | None = None  # of `_kept`, on a mesh, with placements

    @property
    def parameter(self) -> Tensor:
        """The whole parameter, or buffer, as it is now."""
        tensor: Tensor = getattr(self._owner, self._name)
        return tensor

    def both(self) -> tuple[Tensor, Tensor]:
        """The weight, a view of the parameter, and integers of its width, on the same device in the same layout: all
        bits set where it is kept, none where it is removed.

        Of a sharded parameter (DTensor), this process's share, which may be empty; it has other rows too.
        """
        weight = self.parameter.detach()
        kind = _BITS[weight.element_size()]
        if hasattr(weight, "device_mesh"):
            return self._shares(weight, kind)
        weight = weight if self._rows is None else weight[self._rows]
        kept = self._kept
        if kept.dtype is not kind or kept.device != weight.device or kept.stride() != weight.stride():
            self._kept = torch.empty_like(weight, dtype=kind).copy_(kept)
        return weight, self._kept

    def _shares(self, weight: Any, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """`both` of a DTensor."""
        # Loading takes half a second, and where there is a DTensor it is loaded.
        from torch.distributed.tensor import distribute_tensor

        where = (weight.device_mesh, weight.placements)
        if self._share is None or self._share[:2] != where or self._share[2].dtype is not kind:
            whole = torch.full(weight.shape, -1, dtype=kind, device=weight.device)
            whole[slice(None) if self._rows is None else self._rows] = self._kept.to(weight.device, kind)
            # No source rank: everybody has the whole mask and takes a part, without a word to the others.
            placed: Any = distribute_tensor(whole, *where, src_data_rank=None)
            self._share = (*where, placed.to_local())
        return weight.to_local(), self._share[2]


@torch.no_grad()
def fill(held: Iterable[Held]) -> None:
    """Set what is removed to zero; also where it is NaN."""
    for one in held:
        weight, kept = one.both()
        weight.view(kept.dtype).bitwise_and_(kept)


@torch.no_grad()
def first_regrown(held: Iterable[Held]) -> str | None:
    """The first layer with a removed weight that is not zero (nor is NaN); None if there is none in this process."""
    held = tuple(held)
    flags = []
    for one in held:
        weight, kept = one.both()
        flags.append(((weight != 0) & (kept == 0)).any())
    # One transfer for all: asking layer by layer would wait for the accelerator as often.
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    return next((one.layer for one, regrown in zip(held, found, strict=True) if regrown), None)
