"""The paper's training costs, reproduced from its own list of frozen layers, and what autograd really spends.

    python benchmarks/paper_costs.py --shared DIR > benchmarks/results/DATE-paper-costs.md

DIR/reference holds the published figures and the list (cost_reference.json, clip_rn50_conv_layers.json). Nothing is
timed: every figure is counted, so the report is the same on every machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

from rn50 import RN50

from opentrans_cli.spectral.selection import Selection
from opentrans_cli.steps.frontier import cost_of, tower_costs
from opentrans_cli.training.accounting import paper_receipt, paper_settings

SIZE, IMAGES, KEPT = (512, 512), 40_000 * 28, 0.1
MEDIAN_LAYER = "layer4.0.conv1"  # by the published alpha* it is this one or one of two others of the same cost
DRAWS = 1000
PETA, GIGA = 1e15, 1e9


def table(layers: dict[str, int], frozen: list[str], figures: dict[str, Any]) -> None:
    """The five published rows beside the reproduced ones."""
    convolutions = list(layers)
    other = round(figures["C_backbone_G"] * GIGA) - sum(layers.values())
    counted, head = {**layers, "other": other}, round(figures["C_head_G"] * GIGA)
    settings = paper_settings(
        counted,
        frozen=frozen,
        opposite=[name for name in convolutions if name not in frozen and name != MEDIAN_LAYER],
        kept=dict.fromkeys(counted, KEPT),
        head=head,
        resolution=SIZE,
        images=IMAGES,
    )
    draws = []
    for seed in range(DRAWS):
        drawn = Selection("random", ratio=0.5, seed=seed).choose(dict.fromkeys(convolutions, 2.0))
        draws.append(paper_receipt(counted, frozen=drawn, head=head, resolution=SIZE, images=IMAGES).total / PETA)
    rows = {
        "all trained": ("dense", settings["full"].total / PETA),
        f"random, mean of {DRAWS} draws": ("random", mean(draws)),
        "alpha* (light-tailed frozen)": ("alpha_star", settings["alpha_opposite"].total / PETA),
        "alpha (heavy-tailed frozen)": ("alpha", settings["alpha"].total / PETA),
        "alpha + pruning": ("alpha_plus_pruning", settings["alpha_subnet"].total / PETA),
    }
    print("| setting | published PMACs | reproduced PMACs | difference |\n|---|---|---|---|")
    for label, (key, value) in rows.items():
        published = figures["published_P"][key]
        print(f"| {label} | {published} | {value:.2f} | {100 * (value / published - 1):+.2f} % |")
    print(
        "\nalpha* trains one layer of the light-tailed half, the median one. It is not published which; the figure "
        f"fits {MEDIAN_LAYER} and two others of the same cost."
    )
    cuts = quantiles(draws, n=40)
    published = figures["published_P"]["random"]
    below = sum(draw < published for draw in draws)
    print(
        f"\nThe random row is one draw of 27 of the 55 layers, and it is not published which. Of {DRAWS} draws the "
        f"middle 95 % cost {cuts[0]:.1f} to {cuts[-1]:.1f} PMACs; {below} cost less than the published {published}."
    )


def both_ways(frozen: list[str]) -> None:
    """The same list by the paper's rules and by autograd's, for the trunk alone."""
    costs = tower_costs(RN50, resolution=SIZE)
    order = list(costs)
    half = len(order) // 2
    print("\n## Autograd's rules\n")
    print(
        "Convolutions of the trunk alone, nothing pruned. The paper keeps the input gradient of every layer; autograd "
        "computes none below the lowest trained parameter, and a frozen layer's BatchNorm is frozen with it.\n"
    )
    print("| frozen | layers | GMACs an image | saved | saved as the paper counts |\n|---|---|---|---|---|")
    for label, names in {
        "nothing": [],
        "the paper's list": frozen,
        "the first half of the network": order[:half],
        "the last half of the network": order[-half:],
        "everything": order,
    }.items():
        point = cost_of(RN50, names, resolution=SIZE)
        print(
            f"| {label} | {point.frozen} | {point.total / GIGA:.2f} | {100 * point.saved:.1f} % "
            f"| {100 * point.saved_paper:.1f} % |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="the folder that holds reference/")
    reference = parser.parse_args().shared / "reference"
    rows = json.loads((reference / "clip_rn50_conv_layers.json").read_text(encoding="utf-8"))["layers"]
    figures = json.loads((reference / "cost_reference.json").read_text(encoding="utf-8"))["training_flops"]
    layers = {name: cost.forward for name, cost in tower_costs(RN50, resolution=SIZE).items()}
    frozen = [row["name"] for row in rows if row["frozen_in_official_commented_list"]]
    share = sum(layers[name] for name in frozen) / sum(layers.values())
    print("# Training costs of the paper\n\n`python benchmarks/paper_costs.py --shared DIR`, counted, not timed.\n")
    print(
        f"OpenTrans, arXiv 2404.07448, Table 2: Han et al. with CLIP RN50, {SIZE[0]} x {SIZE[1]} pixels, {IMAGES:,} "
        f"images. Counted here: {sum(layers.values()) / GIGA:.3f} GMACs in {len(layers)} convolutions; with BatchNorm "
        f"and pooling the trunk has {figures['C_backbone_G']} by thop, the head {figures['C_head_G']}. Frozen are the "
        f"{len(frozen)} layers listed in the official code, {100 * share:.2f} % of the convolutions' MACs; pruned "
        f"layers keep {100 * KEPT:.0f} % of their weights.\n"
    )
    table(layers, frozen, figures)
    both_ways(frozen)


if __name__ == "__main__":
    main()
