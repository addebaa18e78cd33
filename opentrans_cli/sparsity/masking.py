"""Putting masks on a module and keeping them there.

Masks are bool tensors by layer (True = kept), in the shape of the layer's `weight`; layers are whole dotted
names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from opentrans_cli.clip.layers import layer_weight
from opentrans_cli.errors import MaskError


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
    for layer, weight, pruned in _resolve(module, masks):
        if bool(weight[pruned].any()):
            raise MaskError(f"pruned weights are no longer zero: {layer}; apply the mask again before writing")


def hold(
    module: nn.Module, masks: Mapping[str, Tensor], companions: Mapping[str, Tensor] | None = None
) -> Callable[[], None]:
    """A function that sets the removed weights to zero again; call it after every optimizer step.

    Masks are copied to each weight's device once, so move the module first. Raises MaskError as
    `apply_masks` does.
    """
    held = [(weight, pruned) for _, weight, pruned in _resolve(module, masks)]
    held += [_removed(name, _parameter(module, name), mask) for name, mask in (companions or {}).items()]

    @torch.no_grad()
    def hold_once() -> None:
        # Moments and weight decay would regrow pruned weights. Filling, not multiplying: NaN * 0 is NaN.
        for weight, pruned in held:
            weight.masked_fill_(pruned, 0.0)

    return hold_once


def _resolve(module: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, its weight, which entries are removed) for every mask; the last two on the same device."""
    for layer, mask in masks.items():
        try:
            weight = layer_weight(module, layer)
        except KeyError:
            raise MaskError(f"no layer with a weight: {layer}; use the masks of the same architecture") from None
        yield layer, *_removed(layer, weight, mask)


def _parameter(module: nn.Module, name: str) -> Tensor:
    try:
        return module.get_parameter(name).detach()
    except AttributeError:
        raise MaskError(f"no parameter to hold: {name}; use the masks of the same architecture") from None


def _removed(name: str, tensor: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tensor and which of its entries are removed, both on its device."""
    if tensor.shape != mask.shape:
        raise MaskError(
            f"mask and weight differ in shape: {name}, {tuple(mask.shape)} and {tuple(tensor.shape)}; "
            "use the masks of the same architecture"
        )
    return tensor, ~mask.to(tensor.device, torch.bool)
