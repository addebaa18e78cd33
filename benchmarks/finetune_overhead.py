"""What masks, log and progress cost a fine-tuning step: `finetune` and a plain torch loop, their steps in turn.

    python benchmarks/finetune_overhead.py --work rn50-runs > benchmarks/results/DATE-finetune-overhead.md

The plain loop: forward, cross-entropy, backward, clipping, AdamW, and nothing else. Ours is a run of `FinetuneRun` as
the command makes it: masks held, steps checked, logged, told to a progress bar. Both train DeepLabV3 around the same
tower, 90 % pruned, nothing frozen, which costs masks most, on one batch made beforehand; in one process, in the order
ours, plain, plain, ours, each pair a ratio. Told apart, because no step has them: states, receipts (counted once a run)
and redrawing the bar. RN50 has random weights (random_rn50.py); DIR keeps its subnet. `--clock cpu` reads the seconds
of all cores together, for a machine that others use as well.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import random_rn50
import torch
from rich.console import Console
from torch import nn

from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.cli.progress import _REFRESHES, Bars
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.frameworks.base import BACKBONE, ClassText
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.finetune.options import FinetuneControls, FinetuneOptions
from opentrans_cli.steps.finetune.run import FinetuneRun
from opentrans_cli.steps.finetune.settings import finetune_settings
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.run_log import RunLog
from opentrans_cli.steps.segmentors.built import build_segmentor
from opentrans_cli.steps.segmentors.words import embed_vocabulary
from opentrans_cli.steps.sources import bundle_tower, load_text_clip
from opentrans_cli.steps.step_record import environment
from opentrans_cli.steps.training_data import IGNORED, TrainingBatch, TrainingData
from opentrans_cli.training.optimizer import build_optimizer
from opentrans_cli.training.processes.distributed import World
from opentrans_cli.training.run_state import RunState

SPARSITY = 0.9
SAVE_EVERY = FinetuneControls().save_every
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
COLUMNS = (
    *("tower", "crop", "batch", "plain, s a step", "ours, s a step", "ours / plain, median of pairs (lowest, highest)"),
    *("holding masks alone", "a state", "a state, per step", "receipts, once a run", "redraws"),
)


@dataclass(frozen=True)
class Subject:
    """What is trained."""

    tower: str
    crop: int
    batch_size: int


@dataclass
class Seconds:
    """What was measured, by step or by occasion."""

    ours: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    holding: list[float] = field(default_factory=list)
    saving: list[float] = field(default_factory=list)
    receipts: float = 0.0
    redraw: float = 0.0


class InTurn(TrainingData):
    """One batch for ever. Whoever asks for the next ends a step, and waits for the plain ones that are due."""

    def __init__(self, *args: Any, clock: Callable[[], float], seconds: Seconds, **options: Any) -> None:
        super().__init__(*args, **options)
        self.plain: Callable[[], object] = lambda: None
        self.made = super().batch(0)
        self._clock, self._seconds, self._started, self._saved = clock, seconds, 0.0, 0.0

    def batch(self, step: int) -> TrainingBatch:
        """The batch. The first step of each kind is not timed, nor is the last of ours, which nothing ends."""
        seconds, saved = self._seconds, sum(self._seconds.saving)
        if step > 1:
            seconds.ours.append(self._clock() - self._started - (saved - self._saved))
        if step == 1:
            self.plain()
        elif step and step % 2 == 0:
            seconds.plain += [timed(self._clock, self.plain) for _ in range(2)]
        self._saved, self._started = saved, self._clock()
        return self.made


class Drawn:
    """A progress bar that is told everything and drawn only when asked: else it would be in the plain steps too."""

    def __init__(self, stream: Any) -> None:
        self._bars = Bars(Console(file=stream, force_terminal=True, width=120))
        self._bars.live.auto_refresh = False

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        """A bar like the command's."""
        task = self._bars.add_task(title, total=total, completed=done, status="")
        yield lambda status: self._bars.update(task, advance=1, status=status)

    def redraw(self, clock: Callable[[], float]) -> float:
        """Seconds that drawing it once takes."""
        with self._bars:
            return median(timed(clock, self._bars.refresh) for _ in range(21))


def timed(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Seconds of one call."""
    before = clock()
    call()
    return clock() - before


def subnet(work: Path, tower: str) -> Bundle:
    """A bundle with the pruned tower."""
    source = "tiny" if tower == "tiny" else str(work / "rn50-random")
    if tower != "tiny" and not Path(source).exists():
        random_rn50.main(Path(source))
    bundle = work / f"{tower}-subnet"
    if not bundle.exists():
        prune(source, sparsity=SPARSITY, out=bundle)
    return open_bundle(bundle)


def plain_step(module: nn.Module, batch: TrainingBatch, text: ClassText, o: FinetuneOptions) -> Callable[[], object]:
    """A step as one writes it by hand, with the optimizer of the run."""
    module.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    settings = replace(finetune_settings(o, FinetuneControls()), backbone_prefix=BACKBONE)
    optimizer = build_optimizer(dict(module.named_parameters()), settings)
    images, label_maps = batch[:2]

    def step() -> None:
        loss = nn.functional.cross_entropy(module(images, text), label_maps, ignore_index=IGNORED)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), o.grad_clip)
        optimizer.step()

    return step


def measure(subject: Subject, work: Path, *, pairs: int, clock: Callable[[], float]) -> Seconds:
    """Train both in turn."""
    opened, seconds, world = subnet(work, subject.tower), Seconds(), World(torch.device("cpu"))
    options = FinetuneOptions(steps=pairs + 2, batch_size=subject.batch_size, crop=subject.crop, freeze="none")
    controls = FinetuneControls(save_every=1 + pairs // 3, timing_steps=0)
    tower = bundle_tower(opened)
    built = build_segmentor(tower, "deeplabv3")
    samples = DATASETS.load("shapes")(DatasetOptions())
    loader = InTurn(samples, options, preprocess=tower.preprocess, clock=clock, seconds=seconds)
    clip = load_text_clip(opened.manifest.base, None, SILENT)
    text = embed_vocabulary(clip, loader.seen_vocabulary, templates=built.framework.templates)
    loader.plain = plain_step(copy.deepcopy(built.module), loader.made, text, options)
    save = RunState.save

    def save_timed(run: RunState, path: Path) -> None:
        seconds.saving.append(timed(clock, lambda: save(run, path)))

    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as stream:
        reporter = Drawn(stream)
        with RunLog(Path(folder) / "log.jsonl") as log, patch.object(RunState, "save", save_timed):
            run = FinetuneRun(built, loader, clip, options, controls, world=world, log=log, reporter=reporter)
            run.train(resume_from=None, checkpoint=Path(folder) / "state", evaluate=None)
        seconds.redraw = reporter.redraw(clock)
    hold = run._holder(run._trained)
    hold()
    seconds.holding = [timed(clock, hold) for _ in range(pairs)]
    seconds.receipts = timed(clock, run._count) + timed(clock, run.receipt)  # counted before training and after
    return seconds


def row(subject: Subject, found: Seconds) -> str:
    """One line of the table."""
    ratios = [ours / plain for ours, plain in zip(found.ours, found.plain, strict=True)]
    plain, state = median(found.plain), median(found.saving)
    cells = (
        subject.tower,
        subject.crop,
        subject.batch_size,
        f"{plain:.4f}",
        f"{median(found.ours):.4f}",
        f"{median(ratios):.4f} ({min(ratios):.3f}, {max(ratios):.3f})",
        f"{1000 * median(found.holding):.2f} ms, {median(found.holding) / plain:.2%}",
        f"{state:.3f} s",
        f"{state / SAVE_EVERY / plain:.2%}",
        f"{found.receipts:.2f} s",
        f"{_REFRESHES * found.redraw:.2%}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20, help="of RN50; of the tiny tower ten times as many; even")
    parser.add_argument("--crop", type=int, default=224, help="of RN50")
    parser.add_argument("--batch-size", type=int, default=8, help="of RN50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--only", choices=["tiny", "rn50"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    subjects = {Subject("tiny", 96, 16): 10 * args.pairs, Subject("rn50", args.crop, args.batch_size): args.pairs}
    print(f"# Overhead of a fine-tuning step, {time.strftime('%Y-%m-%d')}\n\n{environment(torch.device('cpu'))}\n")
    print(f"DeepLabV3, {SPARSITY:.0%} pruned, {args.threads} threads, seconds of the {args.clock} clock.\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{len(COLUMNS) * '---|'}")
    for subject, pairs in subjects.items():
        if args.only in (None, subject.tower):
            print(row(subject, measure(subject, args.work, pairs=pairs, clock=CLOCKS[args.clock])), flush=True)
    print(
        f"\nA state, per step: written every {SAVE_EVERY} steps, by the plain step. Redraws: {_REFRESHES} a second, by "
        "the second; on a terminal alone."
    )


if __name__ == "__main__":
    main()
