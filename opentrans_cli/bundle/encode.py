"""A tower as it is stored: of every layer the values its mask keeps, in the bundle's dtype, checked on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.bitmask import Mask, kept_values, scatter_values
from opentrans_cli.bundle.layout import Tensors, check_finite, weight_name
from opentrans_cli.errors import BundleError, MaskError
from opentrans_cli.files.tensorfile import from_bfloat16_bits, to_bfloat16_bits

# From here on, rounding to the nearest bfloat16 gives infinity: half a step above its largest number.
_BFLOAT16_END = np.uint32(0x7F7F8000).view(np.float32)


def encode_tower(tower: Tensors, masks: Mapping[str, Mask], dtype: str) -> dict[str, NDArray[Any]]:
    """`tower` with `<layer>.weight` of every masked layer as its kept values, 1-D in mask order.

    They are float16, or float32 for the dtypes "float32" and "bfloat16" (rounded when written); other tensors
    are as given. Raises MaskError when a layer is missing, differs in shape or has weights outside its mask,
    BundleError for values that are not finite or too large for `dtype`.
    """
    stored = {weight_name(layer): _encode_layer(tower, layer, mask, dtype) for layer, mask in masks.items()}
    for name, array in tower.items():
        if name not in stored:
            check_finite(name, array)
            stored[name] = np.asarray(array)
    return stored


def stored_dtypes(names: Mapping[str, Any], masks: Mapping[str, Mask], dtype: str) -> dict[str, str] | None:
    """Which of the tensors `names` are rounded to bfloat16 when written; a name may begin with "<round>/"."""
    if dtype != "bfloat16":
        return None
    weights = {weight_name(layer) for layer in masks}
    return {name: dtype for name in names if name.rpartition("/")[2] in weights}


def stored_hashes(tower: Tensors, masks: Mapping[str, Mask], dtype: str) -> dict[str, str]:
    """By tensor, SHA-256 in hexadecimal of its bytes as `weights.safetensors` holds them; arguments as `encode_tower`.

    `tower` may be a part of one, with the masks of that part.
    """
    stored = encode_tower(tower, masks, dtype)
    rounded = stored_dtypes(stored, masks, dtype) or {}
    arrays = {name: to_bfloat16_bits(array) if name in rounded else array for name, array in stored.items()}
    return {
        name: hashlib.sha256(np.asarray(array, array.dtype.newbyteorder("<"), order="C").tobytes()).hexdigest()
        for name, array in sorted(arrays.items())
    }


def masked_base(base: Tensors, masks: Mapping[str, Mask], dtype: str) -> dict[str, NDArray[Any]]:
    """The dense tower that a bundle with these masks and this dtype would hold if nothing had been trained.

    `base` is the dense tower the masks were made for, a tensor a layer. Raises BundleError when it lacks a layer.
    """
    tower = {
        name: array.astype(np.float32, copy=False) if np.issubdtype(array.dtype, np.floating) else array
        for name, array in base.items()
    }
    for layer, mask in masks.items():
        name = weight_name(layer)
        if name not in tower:
            raise BundleError(f"mask without a weight: {name!r} is not in the base; write the bundle again")
        values = _rounded(name, kept_values(tower[name], mask), dtype).astype(np.float32, copy=False)
        tower[name] = scatter_values(
            from_bfloat16_bits(to_bfloat16_bits(values)) if dtype == "bfloat16" else values, mask
        )
    return tower


def _encode_layer(tower: Tensors, layer: str, mask: Mask, dtype: str) -> NDArray[Any]:
    name = weight_name(layer)
    if name not in tower:
        raise MaskError(f"mask without a weight: {name!r} is not in the tower; use the masks of this model")
    weight = np.asarray(tower[name])
    if not np.issubdtype(weight.dtype, np.floating):
        raise MaskError(f"weight is {weight.dtype}: {name!r}; prune floating-point weights")
    if weight.shape != mask.shape:
        raise MaskError(
            f"mask and weight differ in shape: layer {layer!r}, {mask.shape} and {weight.shape}; use its mask"
        )
    values = kept_values(weight, mask)
    # Comparing and counting bools is the fast way; NaN counts as well, zeros of either sign do not.
    if np.count_nonzero(weight != 0) != np.count_nonzero(values):
        check_finite(name, weight)
        raise MaskError(f"pruned weights are not zero: layer {layer!r}; apply the mask again before writing")
    return _rounded(name, values, dtype)


def _rounded(name: str, values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """`values` in the dtype numpy can hold, every one finite in the dtype they are stored in."""
    with np.errstate(over="ignore", under="ignore"):
        stored = values.astype(np.float16 if dtype == "float16" else np.float32, copy=False)
    fits = np.abs(stored) < _BFLOAT16_END if dtype == "bfloat16" else np.isfinite(stored)
    if not fits.all():
        check_finite(name, values)
        raise BundleError(f"weights are too large for {dtype}: {name!r}; choose float32")
    return stored
