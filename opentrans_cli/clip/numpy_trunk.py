"""The trunk of a CLIP ResNet in numpy alone, one weight in memory at a time: an independent look at a written file.

Slow on large images and exact to float32 rounding; it follows the definition in OpenAI's CLIP (Radford et al. 2021):
three stem convolutions, bottlenecks whose stride is an average pool, BatchNorm with running statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Weights = Callable[[str], NDArray[Any]]
"""A tensor of the tower by name, of any floating type."""

_EPSILON = 1e-5


def trunk_tensors(blocks: Sequence[int]) -> tuple[str, ...]:
    """Names of all tensors that `trunk_features` asks for."""
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

    blocks: how many each stage has. H and W are multiples of 32.
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
