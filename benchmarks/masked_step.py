"""What holding masks costs a training step: dense, masked by us, and torch's re-parametrisation, in paired steps.

    python benchmarks/masked_step.py > benchmarks/results/DATE-masked-step.md

One AdamW step of distillation on RN50 (random weights, 90 % pruned, 224 pixels): forward, loss, backward, optimizer,
and for the masked step `hold`. The three run in turn in one process, so each ratio is of neighbours in time.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median

import torch
from rn50 import RN50
from torch import nn
from torch.nn.utils import prune as torch_prune

from opentrans_cli.clip.architecture import build_clip
from opentrans_cli.clip.layers import layer_weights, prunable_layers
from opentrans_cli.distill.image import image_loss
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.sparsity.patterns.base import pattern_for
from opentrans_cli.sparsity.selection import Computed
from opentrans_cli.steps.step_record import environment

SPARSITY = 0.9


def tower() -> nn.Module:
    torch.manual_seed(0)
    visual: nn.Module = build_clip(RN50).visual  # type: ignore[assignment]
    for name, parameter in visual.named_parameters():
        if name.endswith("bn3.weight"):  # open_clip starts them at 0, which would cut the branches off
            nn.init.uniform_(parameter, 0.5, 1.5)
    return visual.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def stepper(visual: nn.Module, images: torch.Tensor, after_step: Callable[[], None]) -> Callable[[], float]:
    """A function that makes one step and says how many seconds it took."""
    optimizer = torch.optim.AdamW(visual.parameters(), lr=1e-5, weight_decay=0.0)
    teacher = nn.functional.normalize(torch.randn(len(images), 1024, generator=torch.Generator().manual_seed(1)), dim=1)

    def step() -> float:
        started = time.perf_counter()
        loss = image_loss(visual(images), teacher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        after_step()
        return time.perf_counter() - started

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dense = tower()
    masked, reparametrised = copy.deepcopy(dense), copy.deepcopy(dense)
    layers = prunable_layers(masked)
    weights = layer_weights(masked, layers)
    scores = Computed(layers, lambda layer: weights[layer].abs().numpy())
    masks = pattern_for("unstructured", RN50).masks(scores, SPARSITY)
    hold_masks = hold(masked, masks)
    hold_masks()
    for layer, mask in masks.items():
        torch_prune.custom_from_mask(reparametrised.get_submodule(layer), "weight", torch.from_numpy(mask).float())
    images = torch.randn(args.batch_size, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    images = images.contiguous(memory_format=torch.channels_last)
    steps = {
        "dense": stepper(dense, images, lambda: None),
        "masked": stepper(masked, images, hold_masks),
        "torch.nn.utils.prune": stepper(reparametrised, images, lambda: None),
    }
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(args.pairs):
        # Turning the order evens out what a neighbour leaves in the caches.
        for name in list(steps) if number % 2 else reversed(list(steps)):
            seconds[name].append(steps[name]())
    alone = []
    for _ in range(args.pairs):
        started = time.perf_counter()
        hold_masks()
        alone.append(time.perf_counter() - started)
    print(f"# A masked training step, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(
        f"RN50 visual tower, {SPARSITY:.0%} of 54 convolutions pruned, batch {args.batch_size}, {args.pairs} pairs.\n"
    )
    print("| step | median s | ratio to dense: median (lowest, highest pair) |\n|---|---|---|")
    for name, taken in seconds.items():
        ratios = [ours / theirs for ours, theirs in zip(taken, seconds["dense"], strict=True)]
        print(f"| {name} | {median(taken):.3f} | {median(ratios):.4f} ({min(ratios):.3f}, {max(ratios):.3f}) |")
    share = median(alone) / median(seconds["dense"])
    print(f"\nHolding the masks alone: {1000 * median(alone):.1f} ms, {share:.2%} of the dense step.")


if __name__ == "__main__":
    main()
