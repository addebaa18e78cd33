"""The distillation of one pruning run: what is compared with the dense tower, and one optimizer for all rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions, SegDataset
from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.distill.image import embed, image_loss
from opentrans_cli.distill.loop import DistillSettings, StepLog, distill_round, make_optimizer
from opentrans_cli.errors import OptionError
from opentrans_cli.reporter import Reporter
from opentrans_cli.steps.prune.feed import ImageFeed
from opentrans_cli.steps.prune.options import EMBEDDED, PruneOptions
from opentrans_cli.steps.prune.text_guided import RegionDistillation, RegionSettings
from opentrans_cli.steps.region_teacher import raw_names
from opentrans_cli.steps.sources import Tower, load_text_clip
from opentrans_cli.training.processes.distributed import World

# Which loss a pruning run distils with, from its options.


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
    assert options.images and options.labels and options.classes  # as PruneOptions demands
    folder = DatasetOptions(
        images=Path(options.images),
        labels=Path(options.labels),
        classes=Path(options.classes),
        ignore=options.ignore,
        limit=options.image_limit,
    )
    samples = DATASETS.load("folder")(folder)
    return samples


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Objective(Protocol):
    """A loss that compares the tower with what it was when the run began."""

    @property
    def fingerprint(self) -> str:
        """What it is compared on."""

    def begin(self, steps: range) -> None:
        """The steps that come next, in order."""

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of one of them, 0-d, and its terms."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What it learns beside the tower."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its own state, to go on with in another process."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes such a state back."""

    def detach(self) -> Any:
        """Gives the tower back as an ordinary one."""


class ImageObjective:
    """Pooled embeddings of fixed images; the teacher's are those of the tower as it is now, computed here, once."""

    def __init__(
        self, visual: nn.Module, feed: ImageFeed, options: PruneOptions, *, world: World, compiled: bool
    ) -> None:
        """Raises OptionError for fewer images than a batch, or a batch that does not divide among the processes."""
        if len(feed) < options.batch_size:
            raise OptionError(
                f"fewer images than --batch-size: {len(feed)} < {options.batch_size}; lower it or give more images"
            )
        self.visual, self.feed, self.options, self.world = visual, feed, options, world
        self.teacher = feed.map(lambda images: embed(visual, images))
        student = world.wrap(visual)
        self.student = torch.compile(student) if compiled else student
        self._batches: Iterator[tuple[np.ndarray, Tensor]] = iter(())

    @property
    def fingerprint(self) -> str:
        """Of the images."""
        return self.feed.fingerprint

    def begin(self, steps: range) -> None:
        """See Objective."""
        count, size, seed = len(self.feed), self.options.batch_size, self.options.seed
        rows = [self.world.share(batch_indices(step, count=count, batch_size=size, seed=seed)) for step in steps]
        self._batches = zip(rows, self.feed.stream(rows), strict=True)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        """See Objective."""
        rows, images = next(self._batches)
        return image_loss(self.student(images), self.teacher[torch.from_numpy(rows)].to(images.device)), {}

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """None."""
        return iter(())

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def detach(self) -> None:
        """BatchNorms are ordinary again."""
        self.world.unwrap(self.visual)


class Distillation:
    """Trains `visual`, on the world's device, towards `objective`."""

    def __init__(
        self, visual: nn.Module, objective: Objective, options: PruneOptions, *, rounds: int, world: World
    ) -> None:
        self.visual, self.objective, self.world = visual, objective, world
        self.settings = DistillSettings(
            steps=options.steps_per_round,
            final_steps=options.final_steps,
            rounds=rounds,
            lr=options.lr,
            weight_decay=options.weight_decay,
            grad_clip=options.grad_clip,
        )
        self._precision = PRECISIONS[options.precision]
        self.optimizer = make_optimizer(self.trained().values(), self.settings)

    def trained(self) -> dict[str, nn.Parameter]:
        """Everything the optimizer holds, by name."""
        beside = {f"objective.{name}": parameter for name, parameter in self.objective.named_parameters()}
        return {**dict(self.visual.named_parameters()), **beside}

    def run_round(
        self,
        number: int,
        *,
        title: str,
        after_step: Callable[[], None],
        on_step: Callable[[StepLog], None],
        reporter: Reporter,
    ) -> list[StepLog]:
        """Distil round `number`, counted from 0, with the masks held by `after_step`; one entry a step."""
        steps = self.settings.steps_of(number)
        self.objective.begin(steps)
        with reporter.bar(title, len(steps)) as advance:

            def tell(log: StepLog) -> None:
                on_step(log)
                advance(f"loss {log.loss:.4f}")

            return distill_round(
                self.visual,
                self.optimizer,
                self.settings,
                number=number,
                loss=self.objective.loss,
                after_step=after_step,
                reduce=self.world.mean,
                autocast=self._autocast,
                on_step=tell,
            )

    def _autocast(self) -> AbstractContextManager[object]:
        if self._precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=self._precision)
