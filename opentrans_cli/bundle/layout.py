"""How masks, values and rounds lie in a bundle's tensor files, and how they are read back.

mask.safetensors     <layer>          uint8 (ceil(total / 8),)  packed mask
weights.safetensors  <layer>.weight   dtype (kept,)             kept values in mask order
                     any other name   as it is                  every other tensor of the visual tower
rounds.safetensors   <layer>          uint8, the layer's shape  round in which a weight was pruned, 0 = kept

Towers of earlier rounds, round_weights.safetensors: `nested.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.bitmask import Mask, scatter_values, unpack_mask
from opentrans_cli.bundle.manifest import LayerEntry, Manifest
from opentrans_cli.errors import BundleError, MaskError
from opentrans_cli.files.header import Header

MASK = "mask.safetensors"
WEIGHTS = "weights.safetensors"
ROUNDS = "rounds.safetensors"
ROUND_WEIGHTS = "round_weights.safetensors"
HEAD = "segmentor.safetensors"
ALPHA = "alpha.safetensors"
README = "README.md"
FINETUNE_REPORT = "reports/finetune.json"

Tensors = Mapping[str, NDArray[Any]]

SNAPSHOT = re.compile(r"([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-4])/(.+)")
"""Name of a tensor after an earlier round: round, at most 254, and name inside the tower."""


def weight_name(layer: str) -> str:
    """The tensor that the mask of `layer` belongs to."""
    return f"{layer}.weight"


def expected_headers(manifest: Manifest, file: str) -> dict[str, Header]:
    """The tensors that `file` must hold according to the layers; {} for files they say nothing about."""
    layers = manifest.layers
    if file == MASK:
        return {layer.name: Header("uint8", ((layer.total + 7) // 8,)) for layer in layers}
    if file == ROUNDS:
        return {layer.name: Header("uint8", layer.shape) for layer in layers}
    if file == WEIGHTS:
        return {weight_name(layer.name): Header(layer.dtype, (layer.kept,)) for layer in layers}
    return {}


def check_headers(manifest: Manifest, file: str, found: Mapping[str, Header]) -> None:
    """BundleError unless the headers of `file` are those the manifest's layers ask for; costs no tensor
    memory.
    """
    if file == ROUND_WEIGHTS:
        _check_snapshot_headers(manifest, found)
        return
    expected = expected_headers(manifest, file)
    for name, header in expected.items():
        if name not in found:
            raise BundleError(f"tensor is missing: {name!r} in {file}; write or download the bundle again")
        if found[name] != header:
            raise BundleError(
                f"tensor disagrees with the manifest: {name!r} in {file} is "
                f"{found[name].dtype} {found[name].shape}, not {header.dtype} {header.shape}; "
                "write or download the bundle again"
            )
    surplus = sorted(set(found) - set(expected)) if file in (MASK, ROUNDS) else []
    if surplus:
        raise BundleError(
            f"tensor is not in the manifest: {surplus[0]!r} in {file}; write or download the bundle again"
        )


def _check_snapshot_headers(manifest: Manifest, found: Mapping[str, Header]) -> None:
    """Names, dtypes and the bounds of the counts; the exact ones follow from `rounds.safetensors`."""
    layers = {weight_name(layer.name): layer for layer in manifest.layers}
    for name, header in found.items():
        match = SNAPSHOT.fullmatch(name)
        layer = layers.get(match[2]) if match else None
        fits = layer is None or (
            header.dtype == layer.dtype and len(header.shape) == 1 and layer.kept <= header.shape[0] <= layer.total
        )
        if match is None or not fits:
            raise BundleError(
                f"tensor does not belong to an earlier round: {name!r} in {ROUND_WEIGHTS} is "
                f"{header.dtype} {header.shape}; write or download the bundle again"
            )


def decode_mask(layer: LayerEntry, bits: NDArray[np.uint8]) -> Mask:
    """The mask of one layer, bool of its shape.

    BundleError when padding is set or the count is not the manifest's.
    """
    mask = unpack_mask(bits, layer.shape)
    kept = int(np.count_nonzero(mask))
    if kept != layer.kept:
        raise BundleError(
            f"mask keeps {kept} weights, the manifest says {layer.kept}: layer {layer.name!r}; "
            "write or download the bundle again"
        )
    return mask


def decode_tower(masks: Mapping[str, Mask], stored: Tensors, *, origin: str) -> dict[str, NDArray[Any]]:
    """The dense tower: floating tensors as float32, others as stored; zeros where the mask is False.

    Raises BundleError when counts differ or a value is NaN or infinite; `origin` is named in it.
    """
    tower: dict[str, NDArray[Any]] = {}
    for name, array in stored.items():
        check_finite(name, array, origin=origin)
        floating = np.issubdtype(array.dtype, np.floating)
        tower[name] = array.astype(np.float32, copy=False) if floating else array
    for layer, mask in masks.items():
        tower[weight_name(layer)] = scatter_values(tower[weight_name(layer)], mask)
    return tower


def check_finite(name: str, array: NDArray[Any], *, origin: str | None = None) -> None:
    """BundleError when a floating tensor holds NaN or infinite values."""
    where = "" if origin is None else f" in {origin!r}"
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise BundleError(f"tensor holds NaN or infinite values: {name!r}{where}; train or export it again")


def check_rounds(layer: str, rounds: NDArray[np.uint8], mask: Mask) -> None:
    """MaskError unless round 0 marks exactly the kept weights.

    Nested masks follow: round r keeps 0 and all above r.
    """
    if rounds.dtype != np.uint8 or rounds.shape != mask.shape or not np.array_equal(rounds == 0, mask):
        raise MaskError(f"rounds and mask disagree: layer {layer!r}; round 0 must mark exactly the kept weights")
