"""Masks as bits, and the values a mask keeps.

A mask is bool, True = the weight is kept. Packed, it is one bit per weight in C order, the first weight in
the lowest bit of the first byte; unused bits of the last byte are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import BundleError, MaskError

Mask = NDArray[np.bool_]


def pack_mask(mask: Mask) -> NDArray[np.uint8]:
    """Bits of a bool array of any shape: uint8 (ceil(n / 8),) for n elements."""
    if mask.dtype != np.bool_:
        raise ValueError(f"a mask is bool, not {mask.dtype}")
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack_mask(bits: NDArray[np.uint8], shape: Sequence[int]) -> Mask:
    """The bool array of `shape` packed in `bits`, uint8 (ceil(n / 8),).

    Raises BundleError when the length does not fit the shape or a padding bit is set: either means that bits
    and shape belong to different layers.
    """
    total = prod(shape)
    if bits.dtype != np.uint8 or bits.shape != ((total + 7) // 8,):
        raise BundleError(
            f"packed mask has the wrong length: {bits.dtype} {bits.shape} for a weight of shape "
            f"{tuple(shape)}; write or download the bundle again"
        )
    flat = np.unpackbits(bits, bitorder="little")
    if flat[total:].any():
        raise BundleError(
            f"packed mask has padding bits set: weight of shape {tuple(shape)}; write or download the bundle again"
        )
    return flat[:total].astype(np.bool_).reshape(tuple(shape))


def kept_values(weight: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """The kept values of `weight` in C order, 1-D, bit for bit; a kept 0.0 or -0.0 stays, as only the mask decides.

    Raises MaskError when the shapes differ.
    """
    if weight.shape != mask.shape:
        raise MaskError(f"mask and weight differ in shape: {mask.shape} and {weight.shape}; use the mask of that layer")
    # Several times faster than `weight[mask]`, which walks a sparse mask element by element.
    return np.asarray(weight.reshape(-1).take(np.flatnonzero(mask)))


def scatter_values(values: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """The dense array of the mask's shape with `values` (1-D) at its True places in C order and zero
    elsewhere.

    Raises BundleError when there are more or fewer values than kept weights.
    """
    kept = int(np.count_nonzero(mask))
    if values.shape != (kept,):
        raise BundleError(
            f"values and mask disagree: values of shape {values.shape} for {kept} kept weights; "
            "write or download the bundle again"
        )
    dense = np.zeros(mask.size, values.dtype)
    dense[np.flatnonzero(mask)] = values
    return dense.reshape(mask.shape)
