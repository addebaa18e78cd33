"""|w|: the criterion of the paper (OpenTrans, arXiv 2404.07448, Alg. 1; L1 in its code), plain or folded; no images.

Folded, the BatchNorm behind a layer is multiplied into it: in eval mode it scales output channel c by
gamma_c / sqrt(var_c + eps), which might as well stand in the weights. Plain magnitude compares channels that are scaled
up afterwards with channels that are scaled down.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from opentrans_cli.clip.layers import batchnorm_of, layer_weight
from opentrans_cli.sparsity.criteria.base import Criterion, Evidence
from opentrans_cli.sparsity.selection import Computed


def magnitude_scores(evidence: Evidence) -> Mapping[str, Tensor]:
    """The absolute value of every weight; same shapes, dtypes and devices; taken when asked for, to save a copy."""
    return Computed(evidence.layers, lambda layer: layer_weight(evidence.visual, layer).abs())


def folded_scores(evidence: Evidence) -> Mapping[str, Tensor]:
    """|w gamma / sqrt(var + eps)|; plain |w| for a layer without a BatchNorm. Same shapes, dtypes and devices."""
    return Computed(evidence.layers, lambda layer: _folded(evidence.visual, layer))


@torch.no_grad()
def _folded(visual: nn.Module, layer: str) -> Tensor:
    weight, name = layer_weight(visual, layer), batchnorm_of(visual, layer)
    if name is None:
        return weight.abs()
    norm = visual.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    factor = (norm.running_var + norm.eps).rsqrt()
    factor = factor * norm.weight if norm.affine else factor
    return (weight * factor.view(-1, *(1 for _ in weight.shape[1:]))).abs()


MAGNITUDE = Criterion("magnitude", needs_images=False, score=magnitude_scores)
FOLDED = Criterion("folded", needs_images=False, score=folded_scores)
