"""Sharded parameters, of which every process keeps a part (FSDP2), and their conversion from and to whole tensors.

A sharded parameter is a DTensor in the whole parameter's shape, cut along its first dimension. All processes must reach
every `whole`; `put` and `local_share` need no communication. Tensors that are not sharded are accepted too, so callers
need not distinguish them. torch shards and gathers. fully_shard cannot be undone, so this module does that itself:
loss, masks and bundle need it because they hold the module itself. (torch.distributed.checkpoint works on copies of its
state.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

UNIT = 2**20
"""Parameters from which on a module of a sequence, such as a residual block, is gathered and let go by itself."""


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """The full tensor, detached and in every process, of a sharded one; any other as it is."""
    if not _is_sharded(tensor):
        return tensor
    detached: Any = tensor.detach()
    full: Tensor = detached.full_tensor()
    return full


@torch.no_grad()
def put(target: Tensor, full: Tensor) -> None:
    """Copy `full`, the same in every process and of any device and dtype, into `target`, sharded or not, in place.

    A single number may have one dimension or none (see `Shards`). Raises ValueError if they differ in shape otherwise.
    """
    if full.numel() == 1 and target.numel() == 1:
        full = full.reshape(target.shape)
    if target.shape != full.shape:  # copy_ would spread one over the other
        raise ValueError(f"shapes differ: {tuple(full.shape)} into {tuple(target.shape)}")
    local_tensor(target).copy_(local_share(full, target))


def local_share(full: Tensor, parameter: Tensor) -> Tensor:
    """What this process keeps of `full`, on the parameter's device, if `full` is sharded as `parameter` is: all of it
    for a plain one. May share memory with `full`; may be empty.
    """
    if not _is_sharded(parameter):
        return full.to(parameter.device)
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = parameter
    # No source rank: every process has the whole tensor and takes its part without communication.
    placed = distribute_tensor(
        full.detach().to(parameter.device), sharded.device_mesh, sharded.placements, src_data_rank=None
    )
    return local_tensor(placed)


def local_tensor(parameter: Tensor) -> Tensor:
    """What this process keeps of `parameter`, detached: writing to it changes the parameter."""
    detached: Any = parameter.detach()
    local: Tensor = detached.to_local() if _is_sharded(parameter) else detached
    return local


def _is_sharded(tensor: Tensor) -> bool:
    # Without loading DTensor, which takes half a second.
    return hasattr(tensor, "device_mesh")


class _Kept(NamedTuple):
    """A parameter as it was before sharding, and its memory layout; it holds no values while the module is sharded."""

    parameter: nn.Parameter
    shape: torch.Size
    stride: tuple[int, ...]
    places: tuple[tuple[nn.Module, str], ...]  # every module that has it, and under which name


class Shards:
    """A module whose parameters are spread over the processes of a mesh, until `undo`.

    The module itself is what to call; it gathers its parameters for the time they are needed, and their gradients are
    means over the processes. Outside of its forward and backward passes its parameters are DTensors of the same names,
    other objects than before; single numbers without a dimension have one. Units are gathered one by one: the root, and
    every child of an nn.Sequential with at least UNIT parameters. Code that calls the parts
    of such a child without its forward method finds them sharded.
    """

    def __init__(self, module: nn.Module, mesh: DeviceMesh) -> None:
        """Parameters have to be the same in all processes, and on the mesh's device."""
        from torch.distributed.fsdp import fully_shard  # loads DTensor

        # torch warns that the tensor may be written to in place; no code does that here.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        self._module = module
        self._kept = [_keep(parameter, places) for parameter, places in _places(module).items()]
        self._units = [(unit, type(unit)) for unit in (*_units(module), module)]
        for unit, _ in self._units:
            fully_shard(unit, mesh=mesh, reshard_after_forward=unit is not module)
        for kept in self._kept:
            kept.parameter.data = kept.parameter.data.new_empty(0)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, all parameters are whole, plain tensors, and a forward pass needs no other process. Only read them:
        what is written is lost. All processes must enter.
        """
        for unit, _ in self._units:
            sharded: Any = unit
            sharded.set_reshard_after_forward(False, recurse=False)
            sharded.unshard()
        try:
            yield
        finally:
            for unit, _ in self._units:
                sharded = unit
                sharded.set_reshard_after_forward(unit is not self._module, recurse=False)
                sharded.reshard()

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the module's own parameters, whole, with the current values and without gradients, and remove all
        traces of FSDP. All processes must take part.
        """
        for unit, _ in self._units:
            sharded: Any = unit
            sharded.reshard()  # a forward pass without a backward pass leaves the root gathered
        for kept in self._kept:
            owner, name = kept.places[0]
            now: Tensor = getattr(owner, name)
            values = whole(now).reshape(kept.shape)
            kept.parameter.data = torch.empty_strided(
                kept.shape, kept.stride, dtype=values.dtype, device=values.device
            ).copy_(values)
            kept.parameter.requires_grad_(now.requires_grad)
            for place, leaf in kept.places:
                setattr(place, leaf, kept.parameter)
        for unit, plain in self._units:
            unit.__class__ = plain
        for part in self._module.modules():
            _forget(part)


def _places(module: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """Find where each parameter is; shared parameters are in several places."""
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append((part, name))
    return found


def _keep(parameter: nn.Parameter, places: list[tuple[nn.Module, str]]) -> _Kept:
    """Record how to restore a parameter, and give it the layout FSDP needs: contiguous, at least one dimension."""
    kept = _Kept(parameter, parameter.shape, parameter.stride(), tuple(places))
    data = parameter.data.contiguous()
    parameter.data = data.reshape(1) if data.ndim == 0 else data
    parameter.grad = None
    return kept


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of `module` that are called as a whole and are large enough to shard; inner ones first."""
    nested = [child for part in module.modules() if type(part) is nn.Sequential for child in part]
    for child in reversed(dict.fromkeys(nested)):
        container = isinstance(child, nn.ModuleList | nn.ModuleDict)
        if not container and sum(parameter.numel() for parameter in child.parameters()) >= UNIT:
            yield child


def _forget(part: nn.Module) -> None:
    """Remove what FSDP leaves in a module, since torch has no function for that."""
    from torch.distributed._composable_state import _module_state_mapping

    _module_state_mapping.pop(part, None)
    for name, value in list(vars(part).items()):
        if name.startswith(("_fsdp_", "_is_fsdp_", "__composable_api_")):
            delattr(part, name)
        elif name.endswith("_hooks") and isinstance(value, dict):
            for number in [number for number, hook in value.items() if _is_of_fsdp(hook)]:
                del value[number]
                vars(part).get(f"{name}_with_kwargs", {}).pop(number, None)


def _is_of_fsdp(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp.")
