"""Which loss a pruning run distils with, from its options."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions, SegDataset
from opentrans_cli.errors import OptionError
from opentrans_cli.steps.distilling import Distillation, ImageObjective, Objective
from opentrans_cli.steps.feed import ImageFeed
from opentrans_cli.steps.options import PruneOptions
from opentrans_cli.steps.pixels import EMBEDDED
from opentrans_cli.steps.regions import RegionDistillation, RegionSettings, raw_names
from opentrans_cli.steps.reporter import Reporter
from opentrans_cli.steps.sources import Tower, load_text_clip
from opentrans_cli.training.distributed import World


def make_distillation(
    tower: Tower,
    feed: ImageFeed | None,
    options: PruneOptions,
    *,
    rounds: int,
    world: World,
    compiled: bool,
    reporter: Reporter,
) -> Distillation | None:
    """Loss, teacher and optimizer; None, said aloud, where nothing is distilled."""
    if options.distill == "none" or feed is None:
        if options.sparsity > 0:
            reason = "no images given" if feed is None else "as asked"
            hint = "; add --images to win accuracy back" if feed is None else ""
            reporter.say(f"{reason}: pruning without distillation{hint}")
        return None
    objective: Objective
    if options.distill == "image":
        objective = ImageObjective(tower.visual, feed, options, world=world, compiled=compiled)
    else:
        objective = _regions(tower, options, world=world, compiled=compiled, reporter=reporter)
    return Distillation(tower.visual, objective, options, rounds=rounds, world=world)


def _regions(
    tower: Tower, options: PruneOptions, *, world: World, compiled: bool, reporter: Reporter
) -> RegionDistillation:
    if world.size > 1 or compiled:
        reason = "is not compiled: --compile" if compiled else "runs in one process: --distill text-guided"
        raise OptionError(f"text-guided distillation {reason}; use --distill image")
    clip = load_text_clip(tower.base, None, reporter)
    settings = RegionSettings(batch_size=options.batch_size, seed=options.seed, framework=options.framework)
    return RegionDistillation(tower, labelled_images(options), settings, text=raw_names(clip), device=world.device)


def labelled_images(options: PruneOptions) -> SegDataset:
    """The data set of text-guided distillation: the embedded scenes, or a folder of photos with label maps."""
    if options.images == EMBEDDED:
        samples: SegDataset = DATASETS.load(EMBEDDED)(DatasetOptions(limit=options.image_limit))
        return samples
    assert options.images and options.labels and options.classes  # see `check_options`
    folder = DatasetOptions(
        images=Path(options.images),
        labels=Path(options.labels),
        classes=Path(options.classes),
        ignore=options.ignore,
        limit=options.image_limit,
    )
    samples = DATASETS.load("folder")(folder)
    return samples
