"""|w|: the criterion of the paper (OpenTrans, arXiv 2404.07448, Alg. 1; L1 in its code), plain or folded; no images.

Folded, the BatchNorm behind a layer is multiplied into it: in eval mode it scales output channel c by
gamma_c / sqrt(var_c + eps), which could as well be part of the weights. Plain magnitude compares channels that are
scaled up afterwards with channels that are scaled down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.clip.layers import batchnorm_beside
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence, Weights
from opentrans_cli.sparsity.selection import Computed

_EPSILON = 1e-5  # the eps of every BatchNorm in a CLIP tower


def magnitude_scores(evidence: Evidence) -> Mapping[str, NDArray[Any]]:
    """The absolute value of every weight; same shapes and dtypes; computed when needed, to save a copy."""
    weights = evidence.weights
    return Computed(evidence.layers, lambda layer: np.abs(weights[f"{layer}.weight"]))


def folded_scores(evidence: Evidence) -> Mapping[str, NDArray[Any]]:
    """|w gamma / sqrt(var + eps)|; plain |w| for a layer without a BatchNorm. Same shapes and dtypes."""
    weights = evidence.weights
    return Computed(evidence.layers, lambda layer: _folded(weights, layer))


def _folded(weights: Weights, layer: str) -> NDArray[Any]:
    weight, norm = weights[f"{layer}.weight"], batchnorm_beside(layer)
    if f"{norm}.running_var" not in weights:
        return np.abs(weight)
    factor = 1 / np.sqrt(weights[f"{norm}.running_var"] + _EPSILON) * weights[f"{norm}.weight"]
    return np.abs(weight * factor.reshape(-1, *(1 for _ in weight.shape[1:])))


MAGNITUDE = Criterion("magnitude", needs_images=False, score=magnitude_scores)
FOLDED = Criterion("folded", needs_images=False, score=folded_scores)
