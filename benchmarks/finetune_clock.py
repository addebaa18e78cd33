"""Whether the training that is saved is saved on the clock: RN50, counted and measured, by what is frozen.

    python benchmarks/finetune_clock.py --work rn50-runs > benchmarks/results/DATE-finetune-clock.md

Steps of fine-tuning (forward, loss, backward, clipping, AdamW, masks) in turn with those of full training, as
`finetune` itself times them before it begins; each pair is a ratio. Beside it the counted ratio of the same step, zeros
multiplied, which is what dense kernels do. Frozen are the paper's 27 layers, as many others, or blocks from the input
on. RN50 has random weights (random_rn50.py), 90 % pruned; DIR keeps it. `--clock cpu` reads the seconds of all cores
together, for a machine that others use as well.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from finetune_overhead import CLOCKS, SPARSITY, subnet
from torch import nn

from opentrans_cli.clip.prefix import outputs
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.steps.estimate.subject import published_alphas
from opentrans_cli.steps.finetune.cost import SegmentorCount, cached_part, count_segmentor, run_cost
from opentrans_cli.steps.finetune.freezing import choose_frozen
from opentrans_cli.steps.finetune.loss import FinetuneLoss, Terms, TrainedModule
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.finetune.settings import finetune_settings
from opentrans_cli.steps.segmentors.built import build_segmentor
from opentrans_cli.steps.segmentors.words import text_class_indices
from opentrans_cli.steps.sources import Tower, bundle_tower
from opentrans_cli.steps.step_record import environment
from opentrans_cli.steps.training_data import TrainingData
from opentrans_cli.training.costs.receipt import dense
from opentrans_cli.training.costs.timing import StepTimer, Timing
from opentrans_cli.training.loop import Batch
from opentrans_cli.training.processes.distributed import World

CPU = torch.device("cpu")
CLOSE = 10.0  # points


@dataclass(frozen=True)
class Setting:
    """What is frozen."""

    freeze: str = "heavy"
    prefix_end: str | None = None
    cached: bool = False


SETTINGS = {
    "full": Setting("none"),
    "alpha": Setting(),
    "opposite": Setting("light"),
    "random": Setting("random"),
    "alpha + prefix to layer2.3": Setting(prefix_end="layer2.3"),
    "alpha + prefix to layer3.5": Setting(prefix_end="layer3.5"),
    "the whole trunk": Setting(prefix_end="layer4.2"),
    "the whole trunk, its features cached": Setting(prefix_end="layer4.2", cached=True),
}
COLUMNS = (
    *("setting", "layers frozen", "counted", "measured, median of pairs (lowest, highest)", "points apart"),
    *("s a step", "of full training"),
)


@dataclass(frozen=True)
class Found:
    """One setting beside full training."""

    layers: int  # frozen
    counted: float  # MACs of a step by those of full training
    timing: Timing


class Subject:
    """A fresh segmentor around the subnet, and what is needed to train it."""

    def __init__(self, tower: Tower, framework: str, options: FinetuneOptions) -> None:
        self.options = options
        self.built = build_segmentor(replace(tower, built=copy.deepcopy(tower.visual)), framework)
        self.built.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loader = TrainingData(DATASETS.load("shapes")(DatasetOptions()), options, preprocess=tower.preprocess)
        class_indices = text_class_indices(self.loader.seen_vocabulary)
        # What the words mean costs nothing.
        rows = torch.randn(len(class_indices), self.built.dimension, generator=torch.Generator().manual_seed(0))
        text = ClassText(nn.functional.normalize(rows, dim=1), class_indices, (True,) * (max(class_indices) + 1))
        self.trained = TrainedModule(self.built, options, text)

    def timer(self, pairs: int) -> StepTimer:
        """Made before anything is frozen."""
        terms = Terms(self.options, World(CPU))
        settings = finetune_settings(self.options, FinetuneControls())
        return StepTimer(
            self.trained, lambda copied: FinetuneLoss(copied, self.trained, terms), settings, self._holder, steps=pairs
        )

    def _holder(self, copied: Any) -> Callable[[], None]:
        return hold(copied.segmentor, self.built.masks(), self.built.held())

    def count(self) -> SegmentorCount:
        """MACs as it is frozen now."""
        class_indices = text_class_indices(self.loader.seen_vocabulary)
        return count_segmentor(self.built, crop=self.loader.crop, class_indices=class_indices)

    def with_features(self, batch: Batch, end: str) -> Batch:
        """What the cache on disk would add to a batch."""
        self.trained.prefix_end = end
        with torch.no_grad():
            return (*batch, *outputs(self.built.tower.visual.eval(), batch[0], end))


def measure(setting: Setting, subject: Subject, pairs: int) -> Found:
    """Count and time a step."""
    timer, full, built, options = subject.timer(pairs), subject.count(), subject.built, subject.options
    alphas = published_alphas(built, options)
    choice = choose_frozen(built, options, measured_now=False, alphas=alphas, origin="the paper")
    choice.apply(built.module)
    batches = [subject.loader.batch(step) for step in range(2)]
    own, cached = list[Batch](batches), tuple[str, ...]()
    if setting.cached and choice.prefix_end is not None:
        own = [subject.with_features(batch, choice.prefix_end) for batch in batches]
        cached, _ = cached_part(built, choice.prefix_end, options, crops=0)
    cost = run_cost(full, subject.count(), options, crop=subject.loader.crop, cached=cached)
    timing = timer.time(own.__getitem__, batches.__getitem__, CPU)
    assert timing is not None
    return Found(len(choice.layers), cost.run(dense).total / cost.control(dense).total, timing)


def row(name: str, found: Found) -> str:
    """One line of the table."""
    timing = found.timing
    ratios = [run / control for run, control in zip(timing.run, timing.control, strict=True)]
    apart = 100 * (timing.ratio - found.counted)
    cells = (
        name,
        found.layers,
        f"{found.counted:.3f}",
        f"{timing.ratio:.3f} ({min(ratios):.3f}, {max(ratios):.3f})",
        f"{apart:+.1f}{'' if abs(apart) <= CLOSE else ' (!)'}",
        f"{median(timing.run):.3f}",
        f"{median(timing.control):.3f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--frameworks", nargs="+", default=["deeplabv3", "han"])
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    print(f"# Freezing on the clock, {time.strftime('%Y-%m-%d')}\n\n{environment(CPU)}\n")
    print(
        f"RN50, {SPARSITY:.0%} pruned, {args.crop} x {args.crop} pixels, batch {args.batch_size}, {args.pairs} pairs, "
        f"{args.threads} threads, seconds of the {args.clock} clock. Ratios are to full training."
    )
    tower = bundle_tower(subnet(args.work, "rn50"))
    for framework in args.frameworks:
        print(f"\n## {framework}\n\n| {' | '.join(COLUMNS)} |\n|{len(COLUMNS) * '---|'}", flush=True)
        for name in args.settings:
            setting = SETTINGS[name]
            options = FinetuneOptions(
                batch_size=args.batch_size, crop=args.crop, freeze=setting.freeze, prefix_end=setting.prefix_end
            )
            with patch("opentrans_cli.training.costs.timing.time.perf_counter", CLOCKS[args.clock]):
                found = measure(setting, Subject(tower, framework, options), args.pairs)
            print(row(name, found), flush=True)


if __name__ == "__main__":
    main()
