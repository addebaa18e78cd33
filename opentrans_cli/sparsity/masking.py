"""Putting masks on a module and keeping them there.

Masks are bool arrays or tensors by layer (True = kept), in the shape of the layer's `weight`; layers are whole dotted
names. A parameter is looked up again each time, so that a module may be moved, cast, loaded, or sharded (FSDP2), where
each process handles its own part. torch.nn.utils.prune would add parameters and change names in a state.
A weight is set to zero by a bitwise AND, which is four times as fast as masked_fill on a CPU and, unlike
multiplication, also turns NaN into zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.clip.layers import locate
from opentrans_cli.errors import MaskError

Masks = Mapping[str, Any]

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a weight


class Held:
    """Some rows of one parameter, and which of their entries a mask removes."""

    def __init__(self, layer: str, owner: nn.Module, name: str, pruned: Tensor, rows: slice | None = None) -> None:
        self.layer = layer  # its name in the bundle
        self._owner, self._name, self._rows = owner, name, rows
        self._kept = (~pruned).to(torch.int8).neg_()  # all bits set where kept, none where removed
        self._share: tuple[object, object, Tensor] | None = None  # of `_kept`, on a mesh, with placements

    @property
    def parameter(self) -> Tensor:
        """The whole current parameter or buffer."""
        tensor: Tensor = getattr(self._owner, self._name)
        return tensor

    def both(self) -> tuple[Tensor, Tensor]:
        """The weight, a view of the parameter, and integers of its width, on the same device in the same layout: all
        bits set where it is kept, none where it is removed.

        For a sharded parameter (DTensor), this process's part, which may be empty and may include other rows.
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
        # Loading takes half a second; if there is a DTensor, it has been loaded already.
        from torch.distributed.tensor import distribute_tensor

        where = (weight.device_mesh, weight.placements)
        if self._share is None or self._share[:2] != where or self._share[2].dtype is not kind:
            whole = torch.full(weight.shape, -1, dtype=kind, device=weight.device)
            whole[slice(None) if self._rows is None else self._rows] = self._kept.to(weight.device, kind)
            # No source rank: every process has the whole mask and takes its part without communication.
            placed: Any = distribute_tensor(whole, *where, src_data_rank=None)
            self._share = (*where, placed.to_local())
        return weight.to_local(), self._share[2]


@torch.no_grad()
def fill(held: Iterable[Held]) -> None:
    """Set the removed weights to zero, also those that are NaN."""
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
    # One transfer for all layers: one per layer would wait for the accelerator each time.
    found = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist() if flags else []
    return next((one.layer for one, regrown in zip(held, found, strict=True) if regrown), None)


def apply_masks(module: nn.Module, masks: Masks, coupled: Masks | None = None) -> None:
    """Set the removed weights of `module` to zero, in place; kept weights do not change.

    `coupled` are masks of coupled parameters, which are no layer's weight, by full tensor name (see patterns/base.py).
    Raises MaskError naming the layer or tensor that is missing or has another shape; then nothing has been changed.
    """
    hold(module, masks, coupled)()


def check_support(module: nn.Module, masks: Masks) -> None:
    """Raise MaskError naming the first layer with a removed weight that is not exactly zero (nor is NaN)."""
    layer = first_regrown(_held(module, masks))
    if layer is not None:
        raise MaskError(f"pruned weights are no longer zero: {layer}; apply the mask again before writing")


def hold(module: nn.Module, masks: Masks, coupled: Masks | None = None) -> Callable[[], None]:
    """A function that sets the removed weights to zero again; call it after every optimizer step.

    The module may move or be sharded in between. Raises MaskError as `apply_masks` does.
    """
    held = _held(module, masks)
    held += [_removed(module, name, name, None, mask) for name, mask in (coupled or {}).items()]
    # Moments and weight decay would regrow pruned weights. Filling, not multiplying: NaN * 0 is NaN.
    return partial(fill, held)


def _held(module: nn.Module, masks: Masks) -> list[Held]:
    """Return what every mask removes."""
    held = []
    for layer, mask in masks.items():
        try:
            parameter, rows = locate(module, layer)
        except KeyError:
            raise MaskError(f"no layer with a weight: {layer}; use the masks of the same architecture") from None
        held.append(_removed(module, layer, parameter, None if rows == slice(None) else rows, mask))
    return held


def _removed(module: nn.Module, name: str, parameter: str, rows: slice | None, mask: Any) -> Held:
    """Return what `mask` removes from `rows` of a parameter; `name` is its name in messages."""
    try:
        shape = module.get_parameter(parameter).shape
    except AttributeError:
        raise MaskError(f"no parameter to hold: {parameter}; use the masks of the same architecture") from None
    if rows is not None:
        shape = torch.Size((len(range(*rows.indices(shape[0]))), *shape[1:]))
    if tuple(shape) != tuple(mask.shape):
        raise MaskError(
            f"mask and weight differ in shape: {name}, {tuple(mask.shape)} and {tuple(shape)}; "
            "use the masks of the same architecture"
        )
    owner, _, leaf = parameter.rpartition(".")
    return Held(name, module.get_submodule(owner), leaf, ~torch.as_tensor(mask, dtype=torch.bool), rows)
