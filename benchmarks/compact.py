"""What a narrower tower saves: RN50 pruned by whole channels, dense and compact beside each other.

    python benchmarks/compact.py > benchmarks/results/DATE-compact.md

Random weights, one thread, 224 x 224 pixels, batches of 8. Dense and compact batches alternate, so that whatever else
the machine does meets both; the speed-up is the median of the pairs' ratios.
"""

from __future__ import annotations

import time
from statistics import median, quantiles
from typing import Any

import torch
from rn50 import RN50
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.channels import CompactTower, compact_tower
from opentrans_cli.clip.layers import layer_weights
from opentrans_cli.sparsity.masking import apply_masks
from opentrans_cli.sparsity.patterns.channel import channel
from opentrans_cli.steps.step_record import environment, parameter_count

WIDTHS = (48, 32, 16)
BATCH, PAIRS = 8, 9


def pruned(width: int) -> tuple[nn.Module, CompactTower]:
    """The dense tower with its channels masked down to `width`, and the compact one."""
    torch.manual_seed(0)
    visual: Any = build_clip(RN50).visual
    for module in visual.modules():
        if isinstance(module, nn.BatchNorm2d):  # open_clip starts with zeros in bn3: every branch would be dead
            nn.init.uniform_(module.weight, 0.5, 1.5)
    pattern = channel("channel", RN50)
    scores = {layer: weight.abs().numpy() for layer, weight in layer_weights(visual, pattern.layers(())).items()}
    masks = pattern.masks(scores, pattern.sparsity_at(width))
    apply_masks(visual, masks)
    return visual, compact_tower(visual, masks, RN50)


def macs(visual: nn.Module) -> float:
    """Multiply-accumulates of one image, attention included: torch counts it only in the plain kernel."""
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        visual(torch.zeros(1, 3, 224, 224))
    return counter.get_total_flops() / 2


def seconds(visual: nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        visual(images)
    return time.perf_counter() - started


def paired(dense: nn.Module, narrow: nn.Module) -> list[tuple[float, float]]:
    images = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    pairs = [(seconds(dense, images), seconds(narrow, images)) for _ in range(PAIRS + 1)]
    return pairs[1:]  # the first is warm-up


def main() -> None:
    torch.set_num_threads(1)
    where = environment(torch.device("cpu"))
    print(f"# Compact RN50\n\n{where['processor']}, 1 thread, torch {where['torch']}; batch {BATCH}, {PAIRS} pairs.\n")
    print("| width | parameters | GMACs an image | dense s | compact s | speed-up (quartiles) | largest difference |")
    print("|---|---|---|---|---|---|---|")
    singles = []
    for width in WIDTHS:
        dense, compact = pruned(width)
        pairs = paired(dense, compact.visual)
        if width == WIDTHS[0]:
            print(f"| 64 | {parameter_count(dense):,} | {macs(dense) / 1e9:.2f} | | | | |")
        low, middle, high = quantiles([d / c for d, c in pairs], n=4)
        print(
            f"| {width} | {parameter_count(compact.visual):,} | {macs(compact.visual) / 1e9:.2f} "
            f"| {median(d for d, _ in pairs):.2f} | {median(c for _, c in pairs):.2f} "
            f"| {middle:.2f}x ({low:.2f}-{high:.2f}) | {compact.difference:.0e} |"
        )
        singles.append(f"{width}: " + ", ".join(f"{d:.2f}/{c:.2f}" for d, c in pairs))
    print("\nSeconds a batch, dense/compact, pair by pair:\n\n- " + "\n- ".join(singles))


if __name__ == "__main__":
    main()
