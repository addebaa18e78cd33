"""Putting masks on a module and keeping them there.

Masks are bool tensors by layer (True = kept), in the shape of the layer's `weight`; layers are whole dotted
names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from opentrans_cli.clip.layers import locate
from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.held import Held, fill, first_regrown


def prunable_total(masks: Mapping[str, Tensor]) -> int:
    """Number of weights the masks speak about, kept or not."""
    return sum(mask.numel() for mask in masks.values())


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """Removed weights / prunable weights, in [0, 1]; 0 if there is no prunable weight."""
    total = prunable_total(masks)
    kept = sum(int(mask.sum()) for mask in masks.values())
    return (total - kept) / total if total else 0.0


def apply_masks(module: nn.Module, masks: Mapping[str, Tensor], companions: Mapping[str, Tensor] | None = None) -> None:
    """Set the removed weights of `module` to zero, in place; kept weights do not change.

    `companions` are masks of tensors that are no layer's weight, by full tensor name (see patterns/base.py). Raises
    MaskError naming the layer or tensor that is missing or has another shape; then nothing has been changed.
    """
    hold(module, masks, companions)()


def check_support(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise MaskError naming the first layer with a removed weight that is not exactly zero (nor is NaN)."""
    layer = first_regrown(_held(module, masks))
    if layer is not None:
        raise MaskError(f"pruned weights are no longer zero: {layer}; apply the mask again before writing")


def hold(
    module: nn.Module, masks: Mapping[str, Tensor], companions: Mapping[str, Tensor] | None = None
) -> Callable[[], None]:
    """A function that sets the removed weights to zero again; call it after every optimizer step.

    The module may move or be sharded in between. Raises MaskError as `apply_masks` does.
    """
    held = _held(module, masks)
    held += [_removed(module, name, name, None, mask) for name, mask in (companions or {}).items()]
    # Moments and weight decay would regrow pruned weights. Filling, not multiplying: NaN * 0 is NaN.
    return partial(fill, held)


def _held(module: nn.Module, masks: Mapping[str, Tensor]) -> list[Held]:
    """What every mask removes."""
    held = []
    for layer, mask in masks.items():
        try:
            parameter, rows = locate(module, layer)
        except KeyError:
            raise MaskError(f"no layer with a weight: {layer}; use the masks of the same architecture") from None
        held.append(_removed(module, layer, parameter, None if rows == slice(None) else rows, mask))
    return held


def _removed(module: nn.Module, name: str, parameter: str, rows: slice | None, mask: Tensor) -> Held:
    """What `mask` removes of `rows` of a parameter; `name` is what messages call it."""
    try:
        shape = module.get_parameter(parameter).shape
    except AttributeError:
        raise MaskError(f"no parameter to hold: {parameter}; use the masks of the same architecture") from None
    if rows is not None:
        shape = torch.Size((len(range(*rows.indices(shape[0]))), *shape[1:]))
    if shape != mask.shape:
        raise MaskError(
            f"mask and weight differ in shape: {name}, {tuple(mask.shape)} and {tuple(shape)}; "
            "use the masks of the same architecture"
        )
    owner, _, leaf = parameter.rpartition(".")
    return Held(name, module.get_submodule(owner), leaf, ~mask.to(torch.bool), rows)
