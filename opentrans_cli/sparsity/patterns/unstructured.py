"""One global threshold over all layers, any weight may go (OpenTrans, arXiv 2404.07448, Alg. 1)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from opentrans_cli.sparsity.patterns.base import check_sparsity
from opentrans_cli.sparsity.selection import Pool


class Unstructured:
    """Exactly round(sparsity * total) weights removed, the lowest scores of all layers first.

    total counts the weights of all layers, and round is Python's, so 0.5 goes to the even number (as in
    torch.nn.utils.prune). Among equal scores the later layer goes first, and within a layer the later flat index;
    masks of growing sparsity are therefore nested. Scores may be computed as they are asked for (`Computed`), five
    times each at most (seven where one is float64).
    """

    name = "unstructured"
    sparsity: float | None = None

    def problem(self, layer: str, shape: tuple[int, ...]) -> str | None:
        """None: every layer will do."""
        return None

    def layers(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """The layers as they are."""
        return chosen

    def rounds(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """The sparsities as they are."""
        return sparsities

    def masks(
        self, scores: Mapping[str, Tensor], sparsity: float, *, inside: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Masks of the lowest scores; see `Pattern.masks`."""
        check_sparsity(sparsity)
        pool = Pool(scores, inside)
        pool.remove(pool.surplus(sparsity))
        return pool.masks

    def companions(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Nothing: single weights leave no tensor beside them without effect."""
        return {}


def unstructured(text: str, visual: nn.Module) -> Unstructured:
    """The pattern, the same for every tower."""
    return Unstructured()
