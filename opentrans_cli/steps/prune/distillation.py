"""The distillation of a pruning run: a loss that compares the tower with the tower at the start of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.distill.image import embed, image_loss
from opentrans_cli.errors import OptionError
from opentrans_cli.reporter import SILENT, Reporter
from opentrans_cli.steps.prune.loader import ImageLoader, published_options
from opentrans_cli.steps.prune.options import EMBEDDED, PruneOptions
from opentrans_cli.steps.prune.text_guided import RegionDistillation, RegionSettings
from opentrans_cli.steps.region_teacher import raw_names
from opentrans_cli.steps.samples import open_samples
from opentrans_cli.steps.sources import Tower, load_text_clip
from opentrans_cli.training.loop import Batch, Loss
from opentrans_cli.training.processes.distributed import World


class Objective(Protocol):
    """The target of a tower's distillation."""

    @property
    def learned(self) -> nn.Module:
        """The parameters that are trained in addition to the tower."""

    @property
    def figures(self) -> Mapping[str, float]:
        """Figures of the last step, for the report."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data on which tower and teacher are compared."""

    def batch(self, step: int) -> Batch:
        """This process's share of the batch of step `step` (from 0)."""

    def loss_of(self, called: nn.Module) -> Loss:
        """The loss of a batch; the loss calls `called` in place of the tower."""

    def detach(self) -> Any:
        """Returns the tower as an ordinary module."""


def make_objective(
    tower: Tower,
    loader: ImageLoader | None,
    options: PruneOptions,
    *,
    steps: int,
    world: World,
    compiled: bool,
    reporter: Reporter,
) -> Objective | None:
    """Loss and teacher of a run of `steps` steps; None, with a message, if nothing is distilled."""
    if options.distill == "none" or loader is None:
        if options.sparsity > 0 and loader is not None:
            reporter.say("as asked: pruning without distillation")
        return None
    if options.distill == "image":
        return ImageObjective(tower.visual, loader, options, steps=steps, world=world, compiled=compiled)
    if world.size > 1 or compiled:
        reason = "is not compiled: --compile" if compiled else "runs in one process: --distill text-guided"
        raise OptionError(f"text-guided distillation {reason}; use --distill image")
    clip = load_text_clip(tower.base, None, reporter, loaded=tower.clip)
    settings = RegionSettings(batch_size=options.batch_size, seed=options.seed, framework=options.framework)
    return RegionDistillation(
        tower, labelled_images(options, reporter), settings, text=raw_names(clip, reporter), device=world.device
    )


def labelled_images(options: PruneOptions, reporter: Reporter = SILENT) -> SegDataset:
    """The data set of text-guided distillation: the embedded scenes, a published one, or photos with label maps."""
    if options.images == EMBEDDED:
        return open_samples(EMBEDDED, DatasetOptions(limit=options.image_limit))
    if options.published is not None:
        return open_samples(options.published, published_options(options), reporter, sound=True)
    assert options.images and options.classes  # PruneOptions has checked this
    folder = DatasetOptions(
        images=Path(options.images),
        labels=None if options.labels is None else Path(options.labels),
        classes=Path(options.classes),
        ignore=options.ignore,
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
        label_ids=options.label_ids,
        skip_bad=options.skip_bad,
        limit=options.image_limit,
    )
    return open_samples("folder", folder, reporter, sound=True)


class ImageObjective:
    """Compares pooled embeddings of fixed images; the teacher is the tower as it is now, called only here."""

    def __init__(
        self, visual: nn.Module, loader: ImageLoader, options: PruneOptions, *, steps: int, world: World, compiled: bool
    ) -> None:
        """Raises OptionError for fewer images than a batch, or a batch that does not divide among the processes."""
        if len(loader) < options.batch_size:
            raise OptionError(
                f"fewer images than --batch-size: {len(loader)} < {options.batch_size}; lower it or give more images"
            )
        self.loader, self.options, self.steps, self.world, self._compiled = loader, options, steps, world, compiled
        self._rows(0)
        self.teacher = loader.map(lambda images: embed(visual, images))
        self.learned = nn.Module()
        self.figures: dict[str, float] = {}
        self._ahead: Iterator[tuple[np.ndarray, Tensor]] = iter(())
        self._next = -1  # the step whose batch `_ahead` gives next

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the images."""
        return self.loader.fingerprint

    def batch(self, step: int) -> Batch:
        """Images (B, 3, S, S), normalised, and the teacher's embeddings (B, D). It is fastest when steps are asked for
        in order, because workers decode the next images ahead.
        """
        if step != self._next:
            rows = [self._rows(number) for number in range(step, self.steps)]
            self._ahead = zip(rows, self.loader.stream(rows), strict=True)
        chosen, images = next(self._ahead)
        self._next = step + 1
        return images, self.teacher[torch.from_numpy(chosen)]

    def _rows(self, step: int) -> np.ndarray:
        o = self.options
        order = batch_indices(step, count=len(self.loader), batch_size=o.batch_size, seed=o.seed)
        return self.world.share(order)

    def loss_of(self, called: nn.Module) -> Loss:
        """See Objective."""
        return _ImageLoss(torch.compile(called) if self._compiled else called, self.world.size)  # type: ignore[arg-type]

    def detach(self) -> None:
        """Nothing was attached."""


class _ImageLoss:
    """Distance between the embeddings of a batch and the teacher's: this process's share of the loss."""

    def __init__(self, student: nn.Module, processes: int) -> None:
        self._student, self._processes = student, processes

    def whole(self, batch: Batch) -> None:
        """Nothing to compute: every process has the same number of images."""

    def __call__(self, part: Batch, whole: None) -> dict[str, Tensor]:
        images, teacher = part
        return {"image": image_loss(self._student(images), teacher) / self._processes}
