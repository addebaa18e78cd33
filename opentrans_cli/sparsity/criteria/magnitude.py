"""|w|: the criterion of the paper (OpenTrans, arXiv 2404.07448, Alg. 1; L1 in its code)."""

from __future__ import annotations

from torch import Tensor

from opentrans_cli.clip.layers import layer_weights
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence


def magnitude_scores(evidence: Evidence) -> dict[str, Tensor]:
    """The absolute value of every weight; same shapes, dtypes and devices."""
    return {layer: weight.abs() for layer, weight in layer_weights(evidence.visual, evidence.layers).items()}


MAGNITUDE = Criterion("magnitude", needs_images=False, score=magnitude_scores)
