"""|w|: the criterion of the paper (OpenTrans, arXiv 2404.07448, Alg. 1; L1 in its code)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from opentrans_cli.clip.layers import layer_weight
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence
from opentrans_cli.sparsity.selection import Computed


def magnitude_scores(evidence: Evidence) -> Mapping[str, Tensor]:
    """The absolute value of every weight; same shapes, dtypes and devices; taken when asked for, to save a copy."""
    return Computed(evidence.layers, lambda layer: layer_weight(evidence.visual, layer).abs())


MAGNITUDE = Criterion("magnitude", needs_images=False, score=magnitude_scores)
