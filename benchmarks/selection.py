"""One round's global mask update on the weights of RN50, beside torch.nn.utils.prune.global_unstructured.

    python benchmarks/selection.py > benchmarks/results/DATE-selection.md

On one thread. Times are paired: both run in turn in one process, each on weights of its own. They include what a
round needs, so |w| and the masks; masks are compared weight by weight. Memory is measured in a process of its own for
each, as the growth of its peak (Linux only) over what it held before, scores and masks included; the embedded tower
is pruned first, because code that is loaded on first use is no working memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rn50 import RN50
from torch import Tensor, nn
from torch.nn.utils import prune

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import layer_weights, prunable_layers
from opentrans_cli.clip.source import load_clip
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.selection import Computed, Mask
from opentrans_cli.steps.step_record import environment

PAIRS = 9
# Sparsity before and after the round that is measured: one shot, and the second and the last of the paper's rounds.
ROUNDS = ((0.0, 0.9), (0.1, 0.19), (0.8905810108684877, 0.9))
CONTENDERS = ("torch", "ours")

Masks = dict[str, Mask]


def tower() -> nn.Module:
    """RN50 with random weights."""
    torch.manual_seed(0)
    visual = build_clip(RN50).visual
    assert isinstance(visual, nn.Module)
    return visual


def update_ours(weights: Mapping[str, Tensor], sparsity: float, inside: Masks | None) -> Masks:
    scores = Computed(weights, lambda layer: np.abs(weights[layer].numpy()))
    return pattern_for("unstructured", RN50).masks(scores, sparsity, inside=inside)


def update_torch(visual: nn.Module, layers: tuple[str, ...], count: int) -> None:
    chosen = [(visual.get_submodule(layer), "weight") for layer in layers]
    prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=count)


class Contest:
    """Two towers with the same weights, both pruned to the sparsity before the round."""

    def __init__(self, visual: nn.Module, before: float, after: float) -> None:
        self.visual, self.after = visual, after
        self.layers = prunable_layers(self.visual)
        # Copies, because torch's masks replace the parameters of a module by others.
        self.weights = {k: w.clone() for k, w in layer_weights(self.visual, self.layers).items()}
        self.total = sum(weight.numel() for weight in self.weights.values())
        self.inside = update_ours(self.weights, before, None) if before else None
        self.count = round(after * self.total) - round(before * self.total)
        if self.inside is not None:
            for layer, mask in self.inside.items():
                prune.custom_from_mask(self.visual.get_submodule(layer), "weight", torch.from_numpy(mask))
                self.weights[layer] *= torch.from_numpy(mask)

    def run(self, contender: str) -> Masks:
        if contender == "ours":
            return update_ours(self.weights, self.after, self.inside)
        update_torch(self.visual, self.layers, self.count)
        masks = {layer: self.visual.get_submodule(layer).get_buffer("weight_mask") for layer in self.layers}
        return {layer: mask.bool().numpy() for layer, mask in masks.items()}


def timed(contest: Contest, contender: str) -> tuple[float, Masks]:
    started = time.perf_counter()
    masks = contest.run(contender)
    return time.perf_counter() - started, masks


def differing(ours: Masks, theirs: Masks) -> int:
    return sum(int((ours[layer] != theirs[layer]).sum()) for layer in theirs)


def peak(contender: str, before: float, after: float) -> int:
    """Bytes by which this process's peak grows during one update."""
    Contest(load_clip("tiny").model.visual, before, after).run(contender)
    contest = Contest(tower(), before, after)
    # Writing 5 sets the peak back to what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    held = _status("VmRSS")
    contest.run(contender)
    return _status("VmHWM") - held


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def peak_elsewhere(contender: str, before: float, after: float) -> int:
    command = [sys.executable, __file__, contender, str(before), str(after)]
    # glibc gives back at once what is freed, so that the peak is what was alive: no reuse unseen, no holes in the heap.
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


def report(before: float, after: float) -> None:
    seconds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    different, total = 0, 0
    for pair in range(PAIRS):
        masks: dict[str, Masks] = {}
        for contender in CONTENDERS if pair % 2 else reversed(CONTENDERS):
            contest = Contest(tower(), before, after)
            time_taken, masks[contender] = timed(contest, contender)
            seconds[contender].append(time_taken)
            total = contest.total
        different += differing(masks["ours"], masks["torch"])
    weights = 4 * total
    print(f"\n## From sparsity {before:.4g} to {after:.4g}, {total:,} weights\n")
    print("| | seconds, median | every pair | peak memory beside the weights | in weights |\n|---|---|---|---|---|")
    for contender in CONTENDERS:
        grown, times = peak_elsewhere(contender, before, after), seconds[contender]
        every = " ".join(f"{t:.3f}" for t in times)
        print(f"| {contender} | {median(times):.3f} | {every} | {grown / 1e6:.1f} MB | {grown / weights:.2f} x |")
    ratios = [theirs / ours for theirs, ours in zip(seconds["torch"], seconds["ours"], strict=True)]
    print(
        f"\nFaster by {median(ratios):.1f} x (median of pairs; lowest {min(ratios):.1f} x). "
        f"Masks differ in {different} of {PAIRS} x {total:,} weights."
    )


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(json.dumps(peak(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))))
        return
    print(f"# Global mask update, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}")
    for before, after in ROUNDS:
        report(before, after)


if __name__ == "__main__":
    main()
