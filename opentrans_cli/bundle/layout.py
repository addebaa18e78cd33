"""How masks, values and rounds are stored in a bundle's tensor files, checked and read back.

mask.safetensors     <layer>          uint8 (ceil(total / 8),)  packed mask
weights.safetensors  <layer>.weight   dtype (kept,)             kept values in mask order
                     any other name   as it is                  every other tensor of the visual tower
rounds.safetensors   <layer>          uint8, the layer's shape  round in which a weight was pruned, 0 = kept

Towers of earlier rounds, round_weights.safetensors: `nested.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.bitmask import Mask, kept_values, scatter_values, unpack_mask
from opentrans_cli.bundle.manifest import LayerEntry, Manifest
from opentrans_cli.errors import BundleError, MaskError
from opentrans_cli.files.header import TensorHeader
from opentrans_cli.files.tensorfile import from_bfloat16_bits, to_bfloat16_bits

MASK = "mask.safetensors"
WEIGHTS = "weights.safetensors"
ROUNDS = "rounds.safetensors"
ROUND_WEIGHTS = "round_weights.safetensors"
HEAD = "segmentor.safetensors"
ALPHA = "alpha.safetensors"
README = "README.md"
OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
"""Beside a bundle on the Hub: the whole CLIP, as open_clip loads it."""
SPARSE_PATCH = "sparse_patch.safetensors"
"""Beside a bundle on the Hub: what differs from the base, see `checkpoints/sparse_patch.py`."""
EVAL_RESULTS = ".eval_results/opentrans.yaml"
"""Beside a bundle on the Hub: figures for the leaderboards of benchmarks."""
SIGNATURE = "model.sig"
"""Beside a bundle: who published it, see `verify/signature.py`."""
MAX_SIGNATURE = 1 << 20
"""Bytes of a signature; one over thousands of files has less."""
SPARSITY_CHART, ALPHA_CHART = "card/sparsity.png", "card/alpha.png"
"""Beside the model card."""
FINETUNE_REPORT = "reports/finetune.json"

Tensors = Mapping[str, NDArray[Any]]

SNAPSHOT = re.compile(r"([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-4])/(.+)")
"""Name of a tensor after an earlier round: round, at most 254, and name inside the tower."""

# From here on, rounding to the nearest bfloat16 gives infinity: half a step above its largest number.
_BFLOAT16_END = np.uint32(0x7F7F8000).view(np.float32)


def weight_name(layer: str) -> str:
    """The tensor that the mask of `layer` belongs to."""
    return f"{layer}.weight"


def expected_headers(manifest: Manifest, file: str) -> dict[str, TensorHeader]:
    """The tensors that `file` must hold according to the layers; {} for files they say nothing about."""
    layers = manifest.layers
    if file == MASK:
        return {layer.name: TensorHeader("uint8", ((layer.total + 7) // 8,)) for layer in layers}
    if file == ROUNDS:
        return {layer.name: TensorHeader("uint8", layer.shape) for layer in layers}
    if file == WEIGHTS:
        return {weight_name(layer.name): TensorHeader(layer.dtype, (layer.kept,)) for layer in layers}
    return {}


def check_headers(manifest: Manifest, file: str, found: Mapping[str, TensorHeader]) -> None:
    """Raises BundleError unless the headers of `file` are as the manifest's layers require; reads no tensors."""
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


def _check_snapshot_headers(manifest: Manifest, found: Mapping[str, TensorHeader]) -> None:
    """Check names, dtypes and limits of the counts; the exact counts follow from `rounds.safetensors`."""
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

    Raises BundleError if a padding bit is set or the count differs from the manifest's.
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
    """Raises BundleError if a floating-point tensor holds NaN or infinite values."""
    where = "" if origin is None else f" in {origin!r}"
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise BundleError(f"tensor holds NaN or infinite values: {name!r}{where}; train or export it again")


def check_rounds(layer: str, rounds: NDArray[np.uint8], mask: Mask) -> None:
    """Raises MaskError unless round 0 marks exactly the kept weights.

    So the masks are nested: after round r, weights marked 0 or more than r are kept.
    """
    if rounds.dtype != np.uint8 or rounds.shape != mask.shape or not np.array_equal(rounds == 0, mask):
        raise MaskError(f"rounds and mask disagree: layer {layer!r}; round 0 must mark exactly the kept weights")


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

    `tower` may be a part of a tower, with the masks of that part.
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

    `base` is the dense tower of the masks, one tensor per layer. Raises BundleError when a layer is missing in it.
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
    # Comparing and counting bools is fast; NaN is counted as well, and 0.0 and -0.0 are not.
    if np.count_nonzero(weight != 0) != np.count_nonzero(values):
        check_finite(name, weight)
        raise MaskError(f"pruned weights are not zero: layer {layer!r}; apply the mask again before writing")
    return _rounded(name, values, dtype)


def _rounded(name: str, values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """`values` in a dtype of numpy; all of them must be finite in the dtype in which they are stored."""
    with np.errstate(over="ignore", under="ignore"):
        stored = values.astype(np.float16 if dtype == "float16" else np.float32, copy=False)
    fits = np.abs(stored) < _BFLOAT16_END if dtype == "bfloat16" else np.isfinite(stored)
    if not fits.all():
        check_finite(name, values)
        raise BundleError(f"weights are too large for {dtype}: {name!r}; choose float32")
    return stored
