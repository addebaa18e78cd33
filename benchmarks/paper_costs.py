"""The paper's training costs, reproduced from its own list of frozen layers, and what autograd really spends.

    python benchmarks/paper_costs.py > benchmarks/results/DATE-paper-costs.md

The list and the published figures are those of opentrans_cli/training/costs/paper.py. Nothing is timed: every figure
is counted, so the report is the same on every machine.
"""

from __future__ import annotations

import argparse
from statistics import mean, quantiles

from rn50 import RN50

from opentrans_cli.spectral.selection import Selection
from opentrans_cli.steps.analyze.frontier import TowerPrices
from opentrans_cli.training.costs.paper import (
    BATCH_SIZE,
    FROZEN_LAYERS,
    HEAD_MACS,
    ITERATIONS,
    KEPT,
    MEDIAN_LAYER,
    PUBLISHED_PMACS,
    SIZE,
    TRUNK_MACS,
    paper_costs,
    paper_settings,
)
from opentrans_cli.training.costs.receipt import sparse, total

IMAGES = ITERATIONS * BATCH_SIZE
SAMPLES = 1000
PETA, GIGA = 1e15, 1e9


def table(layers: dict[str, int]) -> None:
    """The five published rows beside the reproduced ones."""
    convolutions = list(layers)
    counted = {**layers, "other": TRUNK_MACS - sum(layers.values())}
    settings = paper_settings(
        counted,
        frozen=FROZEN_LAYERS,
        opposite=[name for name in convolutions if name not in FROZEN_LAYERS and name != MEDIAN_LAYER],
        kept=dict.fromkeys(counted, KEPT),
        head=HEAD_MACS,
        images=IMAGES,
    )
    samples = []
    for seed in range(SAMPLES):
        drawn = Selection("random", ratio=0.5, seed=seed).choose(dict.fromkeys(convolutions, 2.0))
        samples.append(total(paper_costs(counted, frozen=drawn, head=HEAD_MACS), sparse).total * IMAGES / PETA)
    rows = {
        "all trained": ("full", settings["full"].total / PETA),
        f"random, mean of {SAMPLES} samples": ("random", mean(samples)),
        "alpha* (light-tailed frozen)": ("alpha_opposite", settings["alpha_opposite"].total / PETA),
        "alpha (heavy-tailed frozen)": ("alpha", settings["alpha"].total / PETA),
        "alpha + pruning": ("alpha_subnet", settings["alpha_subnet"].total / PETA),
    }
    print("| setting | published PMACs | reproduced PMACs | difference |\n|---|---|---|---|")
    for label, (key, value) in rows.items():
        published = PUBLISHED_PMACS[key]
        print(f"| {label} | {published} | {value:.2f} | {100 * (value / published - 1):+.2f} % |")
    print(
        "\nalpha* trains one layer of the light-tailed half, the median one. It is not published which; the figure "
        f"fits {MEDIAN_LAYER} and two others of the same cost."
    )
    cuts = quantiles(samples, n=40)
    published = PUBLISHED_PMACS["random"]
    below = sum(sample < published for sample in samples)
    print(
        f"\nThe random row is one sample of 27 of the 55 layers, and it is not published which. Of {SAMPLES} samples "
        f"the middle 95 % cost {cuts[0]:.1f} to {cuts[-1]:.1f} PMACs; {below} cost less than the published {published}."
    )


def both_ways() -> None:
    """The same list by the paper's rules and by autograd's, for the trunk alone."""
    prices = TowerPrices(RN50, resolution=SIZE)
    order = [layer.name for layer in prices.layers]
    half = len(order) // 2
    print("\n## Autograd's rules\n")
    print(
        "Convolutions of the trunk alone, nothing pruned. The paper keeps the input gradient of every layer; autograd "
        "computes none below the lowest trained parameter, and a frozen layer's BatchNorm is frozen with it.\n"
    )
    print("| frozen | layers | GMACs an image | saved | saved as the paper counts |\n|---|---|---|---|---|")
    for label, names in {
        "nothing": [],
        "the paper's list": list(FROZEN_LAYERS),
        "the first half of the network": order[:half],
        "the last half of the network": order[-half:],
        "everything": order,
    }.items():
        point = prices.of(names)
        print(
            f"| {label} | {point.frozen} | {point.total / GIGA:.2f} | {100 * point.saved:.1f} % "
            f"| {100 * point.saved_paper:.1f} % |"
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    layers = {layer.name: layer.forward for layer in TowerPrices(RN50, resolution=SIZE).layers}
    share = sum(layers[name] for name in FROZEN_LAYERS) / sum(layers.values())
    print("# Training costs of the paper\n\n`python benchmarks/paper_costs.py`, counted, not timed.\n")
    print(
        f"OpenTrans, arXiv 2404.07448, Table 2: Han et al. with CLIP RN50, {SIZE[0]} x {SIZE[1]} pixels, {IMAGES:,} "
        f"images. Counted here: {sum(layers.values()) / GIGA:.3f} GMACs in {len(layers)} convolutions; with BatchNorm "
        f"and pooling the trunk has {TRUNK_MACS / GIGA} by thop, the head {HEAD_MACS / GIGA}. Frozen are the "
        f"{len(FROZEN_LAYERS)} layers listed in the official code, {100 * share:.2f} % of the convolutions' MACs; "
        f"pruned layers keep {100 * KEPT:.0f} % of their weights.\n"
    )
    table(layers)
    both_ways()


if __name__ == "__main__":
    main()
