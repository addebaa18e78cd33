"""Random scores of weights, for controls."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def random_scores(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, Tensor]:
    """Uniform scores in [0, 1), float64 on the CPU, in the given shape by layer.

    A layer's scores depend on `seed` and its name alone: not on the other layers, the platform or the
    library version.
    """
    return {layer: _uniform(f"{seed}:{layer}", tuple(shape)) for layer, shape in shapes.items()}


def _uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Scores in [0, 1) drawn by a name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    # Raw bits, because numpy promises stable streams for bit generators but not for the distributions on top.
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)
