"""How far the trunk in a written checkpoint is from the expected one: the largest difference of its features.

The trunk of a CLIP ResNet is computed in numpy. For RN50 and the small image used here that takes a twentieth of a
second, while loading torch, which nothing else in `transfer --checkpoint` needs, takes more than one second. Only one
weight is in memory at a time. It follows the definition in OpenAI's CLIP (Radford et al. 2021): three stem
convolutions, bottlenecks whose stride is an average pool, BatchNorm with running statistics; exact to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from opentrans_cli.checkpoints.reader import Checkpoint
from opentrans_cli.files.slots import decoded
from opentrans_cli.steps.transfer.checkpoint_plan import CheckpointPlan, part
from opentrans_cli.steps.transfer.subnet import SubnetArrays

Floats = NDArray[np.float32]
Weights = Callable[[str], NDArray[Any]]
"""A tensor of the tower by name, of any floating type."""

_EPSILON = 1e-5


def trunk_tensors(blocks: Sequence[int]) -> tuple[str, ...]:
    """Names of all tensors that `trunk_features` reads."""
    convolutions = [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            pairs = [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)]
            pairs += [("downsample.0", "downsample.1")] if block == 0 else []
            convolutions += [(f"layer{stage}.{block}.{conv}", f"layer{stage}.{block}.{norm}") for conv, norm in pairs]
    leaves = ("weight", "bias", "running_mean", "running_var")
    return tuple(
        name for conv, norm in convolutions for name in (f"{conv}.weight", *(f"{norm}.{leaf}" for leaf in leaves))
    )


def trunk_features(weights: Weights, blocks: Sequence[int], image: Floats) -> list[Floats]:
    """Feature maps of the four stages, (C, H, W) at strides 4, 8, 16 and 32, for one `image` (3, H, W).

    blocks: the number of blocks of each stage. H and W are multiples of 32.
    """
    x = _unit(weights, "conv1", "bn1", image, stride=2)
    x = _pool(_unit(weights, "conv3", "bn3", _unit(weights, "conv2", "bn2", x)), 2)
    features = []
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            x = _bottleneck(weights, f"layer{stage}.{block}.", x, first=block == 0, stride=1 + (block == 0 < stage - 1))
        features.append(x)
    return features


def _bottleneck(weights: Weights, name: str, x: Floats, *, first: bool, stride: int) -> Floats:
    y = _unit(weights, f"{name}conv1", f"{name}bn1", x)
    y = _pool(_unit(weights, f"{name}conv2", f"{name}bn2", y), stride)
    y = _unit(weights, f"{name}conv3", f"{name}bn3", y, relu=False)
    if first:
        x = _unit(weights, f"{name}downsample.0", f"{name}downsample.1", _pool(x, stride), relu=False)
    return np.maximum(x + y, 0)


def _unit(weights: Weights, conv: str, norm: str, x: Floats, *, stride: int = 1, relu: bool = True) -> Floats:
    """Convolution (padded to keep the size), BatchNorm, ReLU."""
    weight = weights(f"{conv}.weight").astype(np.float32)
    out, _, side, _ = weight.shape
    pad = side // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::stride, ::stride]  # (I, H, W, kh, kw)
    height, width = windows.shape[1:3]
    columns = windows.transpose(0, 3, 4, 1, 2).reshape(-1, height * width)
    y = (weight.reshape(out, -1) @ columns).reshape(out, height, width)
    scale, bias, mean, variance = (
        weights(f"{norm}.{leaf}").astype(np.float32)[:, None, None]
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    y = (y - mean) / np.sqrt(variance + np.float32(_EPSILON)) * scale + bias
    return np.maximum(y, 0) if relu else y


def _pool(x: Floats, stride: int) -> Floats:
    channels, height, width = x.shape
    return x.reshape(channels, height // stride, stride, width // stride, stride).mean(axis=(2, 4), dtype=np.float32)


_SIDE = 64  # pixels of the fixed image
_SEED = 0


def trunk_parity(
    plan: CheckpointPlan,
    subnet: SubnetArrays,
    source: Checkpoint,
    written: Checkpoint,
    model_cfg: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare the trunk's features on a fixed random image: expected, and as built from the written file.

    The expected tower is the bundle's own if its values were moved, else the tower of the `source` with the masks
    applied. Both are computed as CLIP's ResNet, whatever the framework builds from the weights. For other towers, and
    if the checkpoint lacks a tensor of the trunk, `difference` is None and `reason` says why.
    """
    blocks = model_cfg["vision_cfg"].get("layers")
    if not isinstance(blocks, list):
        return _unknown("the trunk is no ResNet")
    lacking = next((name for name in trunk_tensors(blocks) if plan.place(name) is None), None)
    if lacking is not None:
        return _unknown(f"the checkpoint lacks a tensor of the trunk: {lacking}")
    image = np.random.default_rng(_SEED).standard_normal((3, _SIDE, _SIDE), dtype=np.float32)

    def expected(name: str) -> NDArray[Any]:
        if subnet.tower is not None:
            return subnet.value(name)
        values = _values(plan, name, source)
        layer = name.removesuffix(".weight")
        return np.where(subnet.masks[layer], values, np.float32(0)) if layer in subnet.masks else values

    try:
        with np.errstate(all="ignore"):  # weights from elsewhere may overflow; the result is checked below
            ours = trunk_features(expected, blocks, image)
            theirs = trunk_features(lambda name: _values(plan, name, written), blocks, image)
    except ValueError:
        return _unknown("the tensors of the trunk do not fit each other")
    differences = [float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True)]
    largest = max(float(np.abs(features).max()) for features in ours)
    if not np.isfinite([*differences, largest]).all():
        return _unknown("the features are not finite")
    return {"difference": max(differences), "largest": largest, "image": [3, _SIDE, _SIDE], "reason": None}


def _values(plan: CheckpointPlan, name: str, checkpoint: Checkpoint) -> NDArray[Any]:
    place = plan.place(name)
    assert place is not None
    return part(decoded(checkpoint.array(place.key), checkpoint.tensors[place.key].dtype), place)


def _unknown(reason: str) -> dict[str, Any]:
    return {"difference": None, "largest": None, "image": None, "reason": reason}
