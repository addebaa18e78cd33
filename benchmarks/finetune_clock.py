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
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from finetune_overhead import CLOCKS, SPARSITY, subnet

from opentrans_cli.clip.prefix import modules_until, outputs
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions
from opentrans_cli.steps.estimate_subject import published_alphas
from opentrans_cli.steps.finetune_cost import run_cost
from opentrans_cli.steps.finetune_run import FinetuneRun
from opentrans_cli.steps.finetune_timing import StepTimer
from opentrans_cli.steps.freeze_choice import FreezeChoice, choose_frozen
from opentrans_cli.steps.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.provenance import environment
from opentrans_cli.steps.reporter import SILENT
from opentrans_cli.steps.segmentors import BACKBONE, build_segmentor
from opentrans_cli.steps.sources import bundle_tower, load_text_clip
from opentrans_cli.steps.training_data import TrainingData
from opentrans_cli.steps.training_log import RunLog
from opentrans_cli.training.distributed import World
from opentrans_cli.training.loop import Batch
from opentrans_cli.training.run_cost import dense
from opentrans_cli.training.step_timing import Timing

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


def measure(setting: Setting, framework: str, work: Path, *, crop: int, batch_size: int, pairs: int) -> Found:
    """Count and time a step."""
    opened = subnet(work, "rn50")
    tower = bundle_tower(opened)
    built = build_segmentor(tower, framework)
    options = FinetuneOptions(
        framework=framework, batch_size=batch_size, crop=crop, freeze=setting.freeze, prefix_end=setting.prefix_end
    )
    feed = TrainingData(DATASETS.load("shapes")(DatasetOptions()), options, preprocess=tower.preprocess)
    clip = load_text_clip(opened.manifest.base, None, SILENT)
    run = FinetuneRun(
        built, feed, clip, options, FinetuneControls(), world=World(CPU), log=RunLog(None), reporter=SILENT
    )
    timer = StepTimer(run._trained, run._loss, run._settings(), run._holder, steps=pairs)
    alphas = published_alphas(built, options)
    choice = choose_frozen(built, options, measured_now=False, alphas=alphas, origin="the paper")
    choice.apply(built.module)
    counted = _counted(run, choice, setting)
    batches = [feed.batch(step) for step in range(2)]
    cached = [_with_features(run, batch, choice) for batch in batches] if setting.cached else batches
    timing = timer.time(cached.__getitem__, batches.__getitem__, CPU)
    assert timing is not None
    return Found(len(choice.layers), counted, timing)


def _counted(run: FinetuneRun, choice: FreezeChoice, setting: Setting) -> float:
    cached: tuple[str, ...] = ()
    if setting.cached and choice.prefix_end is not None:
        cached = tuple(BACKBONE + name for name in modules_until(run.built.tower.visual, choice.prefix_end))
    cost = run_cost(run._full, run._count(), run.options, crop=run.feed.crop, cached=cached)
    return cost.run(dense).total / cost.twin(dense).total


def _with_features(run: FinetuneRun, batch: Batch, choice: FreezeChoice) -> Batch:
    """What the cache on disk would add to a batch."""
    assert choice.prefix_end is not None
    run._trained.prefix_end = choice.prefix_end
    visual = run.built.tower.visual.eval()
    with torch.no_grad():
        return (*batch, *outputs(visual, batch[0], choice.prefix_end))


def row(name: str, found: Found) -> str:
    """One line of the table."""
    timing = found.timing
    ratios = [run / twin for run, twin in zip(timing.run, timing.twin, strict=True)]
    apart = 100 * (timing.ratio - found.counted)
    cells = (
        name,
        found.layers,
        f"{found.counted:.3f}",
        f"{timing.ratio:.3f} ({min(ratios):.3f}, {max(ratios):.3f})",
        f"{apart:+.1f}{'' if abs(apart) <= CLOSE else ' (!)'}",
        f"{timing.run_seconds:.3f}",
        f"{timing.twin_seconds:.3f}",
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
    for framework in args.frameworks:
        print(f"\n## {framework}\n\n| {' | '.join(COLUMNS)} |\n|{len(COLUMNS) * '---|'}", flush=True)
        for name in args.settings:
            sizes = {"crop": args.crop, "batch_size": args.batch_size, "pairs": args.pairs}
            with patch("opentrans_cli.training.step_timing.time.perf_counter", CLOCKS[args.clock]):
                found = measure(SETTINGS[name], framework, args.work, **sizes)
            print(row(name, found), flush=True)


if __name__ == "__main__":
    main()
