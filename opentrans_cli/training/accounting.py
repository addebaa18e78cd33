"""Training costs as the paper counts them (OpenTrans, arXiv 2404.07448, supplement, Sec. 6.2).

A layer of C MACs with the fraction s of its weights kept costs sC in the forward pass, C for the gradient of its inputs
and sC for that of its weights; frozen, it saves the last alone. Autograd differs: below the lowest trained parameter
it computes no input gradient either, see cost.py. Teacher, text tower and pruning itself are not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from opentrans_cli.training.cost import LayerCost
from opentrans_cli.training.run_cost import HEAD, Columns, sparse, total


def paper_costs(
    layers: Mapping[str, int],
    *,
    frozen: Collection[str] = (),
    kept: Mapping[str, float] | None = None,
    head: int = 0,
) -> tuple[LayerCost, ...]:
    """Cost by layer of training on one image.

    layers: MACs of one forward pass by layer of the trunk, with whatever else is to be counted there; `frozen` are some
    of them. kept: kept fraction in [0, 1] by layer, where it is not 1.
    head: MACs of all that is trained on top, without masks.
    Raises ValueError if a frozen layer is not in `layers`.
    """
    unknown = set(frozen) - set(layers)
    if unknown:
        raise ValueError(f"frozen, but not counted: {', '.join(sorted(unknown))}")
    kept = kept or {}
    trunk = tuple(
        LayerCost(name, macs, macs, 0 if name in frozen else macs, kept.get(name, 1.0)) for name, macs in layers.items()
    )
    return (*trunk, LayerCost(HEAD, head, head, head)) if head else trunk


def paper_settings(
    layers: Mapping[str, int],
    *,
    frozen: Collection[str],
    opposite: Collection[str],
    kept: Mapping[str, float],
    head: int = 0,
    images: int,
) -> dict[str, Columns]:
    """MACs of training on `images` images in the paper's settings (Table 2); other arguments as for `paper_costs`.

    full: everything trained. alpha: `frozen`, the heavy-tailed layers. alpha_opposite: `opposite`, the light-tailed
    ones, its alpha*. alpha_subnet: alpha with the pruned weights skipped.
    """
    settings: dict[str, tuple[Collection[str], Mapping[str, float]]] = {
        "full": ((), {}),
        "alpha": (frozen, {}),
        "alpha_opposite": (opposite, {}),
        "alpha_subnet": (frozen, kept),
    }
    return {
        name: total(paper_costs(layers, frozen=fixed, kept=fractions, head=head), sparse).times(images)
        for name, (fixed, fractions) in settings.items()
    }
