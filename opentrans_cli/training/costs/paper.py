"""Training costs as the paper counts them (OpenTrans, arXiv 2404.07448, supplement, Sec. 6.2).

A layer of C MACs with the fraction s of its weights kept costs sC in the forward pass, C for the gradient of its inputs
and sC for that of its weights; freezing it saves only the last. Autograd differs: below the lowest trained parameter
it computes no input gradient either, see macs.py. Teacher, text tower and pruning itself are not counted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from opentrans_cli.training.costs.macs import LayerCost
from opentrans_cli.training.costs.receipt import HEAD, Columns, sparse, total

# What is published on the cost of fine-tuning Han et al. with CLIP RN50: facts that cannot be counted here.
#
# OpenTrans, arXiv 2404.07448: the list is that of the released code, kept there as a comment; the figures are Table 2
# and Table 4. The paper counts MACs with a tool that sees modules of known types alone; thop on the published modules
# gives the figures the tables were made with.


FROZEN_LAYERS = (
    "conv1",
    "conv2",
    "conv3",
    "layer1.0.conv1",
    "layer1.0.conv2",
    "layer1.1.conv2",
    "layer1.1.conv3",
    "layer1.2.conv2",
    "layer1.2.conv3",
    "layer2.0.conv1",
    "layer2.0.conv2",
    "layer2.0.downsample.0",
    "layer2.1.conv1",
    "layer2.1.conv2",
    "layer2.2.conv2",
    "layer2.2.conv3",
    "layer2.3.conv2",
    "layer2.3.conv3",
    "layer3.0.conv1",
    "layer3.0.conv2",
    "layer3.1.conv2",
    "layer3.2.conv2",
    "layer3.3.conv2",
    "layer3.4.conv2",
    "layer3.5.conv2",
    "layer4.0.conv2",
    "layer4.2.conv2",
)
"""The heavy-tailed layers of RN50's tower, 27 of its 55 convolutions; the order is that of use."""

MEDIAN_LAYER = "layer4.0.conv1"
"""The light-tailed layer that is trained in either case.

It is not published which. By the cost of alpha* it is this one, layer3.0.downsample.0 or layer4.0.downsample.0, which
cost the same.
"""

CONVOLUTIONS = 55
"""Layers of RN50's tower that were ranked: its attention pool is not there."""

ITERATIONS, BATCH_SIZE, SIZE = 40_000, 28, (512, 512)
"""The last 40,000 of 50,000 iterations; height and width in pixels. The 10,000 before, all dense, are not counted."""

TRUNK_MACS = 28_306_000_000
"""One image of `SIZE` through the trunk, by thop: 28.041 G of convolutions, and BatchNorm and pooling."""

HEAD_MACS = 25_674_000_000
"""One image of `SIZE` through the head of Han et al., by thop: without attention, matrix products, and what detectron2
wraps. All of it is 44.7 G by fvcore."""

KEPT = 0.1
"""Share of the weights the subnet keeps, as the paper rounds it."""

PUBLISHED_PMACS: Mapping[str, float] = {
    "full": 181.4,
    "random": 164.5,
    "alpha_opposite": 172.3,
    "alpha": 159.6,
    "alpha_subnet": 122.2,
}
"""Training cost by setting, see `paper_settings`; 1 P = 1e15."""


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
