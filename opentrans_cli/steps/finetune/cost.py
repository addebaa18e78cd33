"""The cost receipt of a fine-tuning run: its segmentor counted before and after freezing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from opentrans_cli.clip.prefix import modules_until
from opentrans_cli.frameworks.base import BACKBONE
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.call import SegmentorCall
from opentrans_cli.training.costs.macs import LayerCost
from opentrans_cli.training.costs.receipt import CounterCheck, RunCost, phases_of


@dataclass(frozen=True)
class SegmentorCount:
    """What one training image costs with the layers of the segmentor that are frozen now."""

    layers: tuple[LayerCost, ...]  # by formula
    counter: int | None = None  # MACs of forward and backward pass by torch's own counter, if it was used


def count_segmentor(
    built: BuiltSegmentor, *, crop: int, class_indices: tuple[int, ...], checked: bool = False
) -> SegmentorCount:
    """Count the cost of `built` now: crops of `crop` x `crop` pixels, texts of the seen classes `class_indices`.

    checked: use torch's own counter as well, which runs a forward and a backward pass on the meta device.
    """
    call = SegmentorCall(built.module, built.framework.masks, built.dimension, (crop, crop), class_indices)
    return SegmentorCount(call.formulas(built.kept_shares()), call.counter() if checked else None)


def cached_part(
    built: BuiltSegmentor, end: str, options: FinetuneOptions, *, crops: int
) -> tuple[tuple[str, ...], int]:
    """Modules of the prefix up to the block `end`, by their names in the segmentor, and the largest number of the
    `crops` fixed crops that go through it after the warm-up.
    """
    modules = tuple(f"{BACKBONE}{name}" for name in modules_until(built.tower.visual, end))
    return modules, min(crops, (options.steps - options.warmup_steps) * options.batch_size)


def run_cost(
    full: SegmentorCount,
    frozen: SegmentorCount,
    options: FinetuneOptions,
    *,
    crop: int,
    cached: Collection[str] = (),
    views: int = 0,
) -> RunCost:
    """The receipt of the run of `options`.

    full: counted before anything was frozen, the cost of each of the first `warmup_steps`; frozen: counted after.
    cached: modules of the segmentor whose output is read from a cache after the warm-up; views: distinct crops in it.
    """
    phases = phases_of(
        full.layers,
        frozen.layers,
        steps=options.steps,
        warmup_steps=options.warmup_steps,
        batch_size=options.batch_size,
        cached=cached,
        views=views,
    )
    checked = frozen.counter is not None and full.counter is not None
    check = CounterCheck(run=frozen.counter or 0, full=full.counter or 0) if checked else None
    return RunCost(phases, full.layers, (crop, crop), check)
