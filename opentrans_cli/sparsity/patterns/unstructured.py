"""One global threshold over all layers; any weight may be removed (OpenTrans, arXiv 2404.07448, Alg. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentrans_cli.sparsity.patterns.base import SingleWeights
from opentrans_cli.sparsity.schedule import check_sparsity
from opentrans_cli.sparsity.selection import Mask, Pool, Scores


class Unstructured(SingleWeights):
    """Exactly round(sparsity * total) weights removed, the lowest scores of all layers first.

    total counts the weights of all layers, and round is Python's, so 0.5 goes to the even number (as in
    torch.nn.utils.prune). Among equal scores the later layer is removed first, and within a layer the later flat index;
    masks of growing sparsity are therefore nested. Scores may be computed when needed (`Computed`), at most five times
    each (seven if one is float64).
    """

    name = "unstructured"

    def masks(self, scores: Scores, sparsity: float, *, inside: Mapping[str, Mask] | None = None) -> dict[str, Mask]:
        """Masks of the lowest scores; see `Pattern.masks`."""
        check_sparsity(sparsity)
        pool = Pool(scores, inside)
        pool.remove(pool.surplus(sparsity))
        return pool.masks


def unstructured(text: str, model_cfg: Mapping[str, Any]) -> Unstructured:
    """The pattern, the same for every tower."""
    return Unstructured()
