"""Parameters of which every process keeps a part (FSDP2), and the whole ones they stand for.

A sharded parameter is a DTensor in the whole parameter's shape. All processes must reach every `whole`; `put` and
`local_share` ask nobody. Tensors that are not sharded pass through, so callers need not ask which they have.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """The full tensor, detached and in every process, of a sharded one; any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    full: Tensor = tensor.detach().full_tensor()
    return full


@torch.no_grad()
def put(target: Tensor, full: Tensor) -> None:
    """Copy `full`, the same in every process and of any device and dtype, into `target`, sharded or not, in place.

    Raises ValueError if they differ in shape.
    """
    if target.shape != full.shape:  # copy_ would spread one over the other
        raise ValueError(f"shapes differ: {tuple(full.shape)} into {tuple(target.shape)}")
    local_tensor(target).copy_(local_share(full, target))


def local_share(full: Tensor, parameter: Tensor) -> Tensor:
    """What this process keeps of `full`, on the parameter's device, if `full` is sharded as `parameter` is: all of it
    for a plain one. May share memory with `full`; may be empty.
    """
    if not isinstance(parameter, DTensor):
        return full.to(parameter.device)
    # No source rank: everybody has the whole and takes its part, without a word to the others.
    placed = distribute_tensor(
        full.detach().to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return placed.to_local()


def local_tensor(parameter: Tensor) -> Tensor:
    """What this process keeps of `parameter`, detached: writing to it changes the parameter."""
    detached = parameter.detach()
    return detached.to_local() if isinstance(detached, DTensor) else detached
