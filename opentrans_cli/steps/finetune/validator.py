"""mIoU during training: the validator scores the segmentor as it is now, on images that are not trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.steps.finetune.options import FinetuneControls
from opentrans_cli.steps.samples import open_samples
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.figures import group_miou
from opentrans_cli.steps.segmentors.predictor import Predictor
from opentrans_cli.steps.segmentors.scoring import confusion_of, score_images
from opentrans_cli.steps.segmentors.tally import added
from opentrans_cli.training.processes.distributed import World


def check_validation_options(dataset: str, controls: FinetuneControls) -> None:
    """Check what can be refused before anything is read. Raises OptionError."""
    if dataset == "shapes" and controls.eval_split_list is not None:
        raise OptionError(
            f"data set 'shapes' has a validation split of its own: --eval-split-list {controls.eval_split_list}; "
            "leave it out"
        )
    if dataset == "folder" and controls.eval_every and controls.eval_split_list is None:
        raise OptionError(
            f"data set '{dataset}' has no validation split: --eval-every {controls.eval_every}; "
            "name the images to evaluate on with --eval-split-list"
        )


def validation_samples(dataset: str, data: DatasetOptions, controls: FinetuneControls) -> SegDataset:
    """At most `--eval-limit` images to evaluate on: those that --eval-split-list names, else the data set's own split.

    Raises OptionError for a folder without such a list, and DataError for a wrong one.
    """
    check_validation_options(dataset, controls)
    chosen = replace(data, split="val", split_list=controls.eval_split_list, limit=controls.eval_limit)
    return open_samples(dataset, chosen, sound=True)


class Validator:
    """Scores `built` as `eval` does when it is called, without any effect on the training that follows."""

    def __init__(
        self,
        built: BuiltSegmentor,
        text: ClassText,
        samples: SegDataset,
        *,
        device: torch.device,
        limit: int | None = None,
        world: World | None = None,
    ) -> None:
        """text: all classes of the data set, also those that training does not label, and which are which.

        limit: only the first `limit` images. world: its processes share the images, and all must call.
        """
        if text.classes != len(samples.vocabulary):
            raise ValueError(f"{text.classes} classes of text for {len(samples.vocabulary)} of the data set")
        self._built, self._text, self._samples, self._device = built, text, samples, device
        self._world = world or World(device)
        self.images = len(samples) if limit is None else min(limit, len(samples))

    def __call__(self) -> dict[str, float]:
        """Fractions: "miou", "miou_seen", "miou_unseen", "pixel_accuracy"; one without a value is left out.

        The same in every process. Raises DataError for a damaged file.
        """
        world = self._world
        with _undisturbed(self._built.module):
            predictor = Predictor(self._built, self._text, device=self._device)
            tally = score_images(predictor, self._samples, range(world.rank, self.images, world.size))
        confusion = confusion_of(added(world.collect(tally)), self._samples)
        figures = group_miou(confusion, self._text.seen)
        return {name: value for name, value in figures.items() if value is not None}


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Run without autocast and gradients; every module then has the same mode, training or eval, as before."""
    modes = {part: part.training for part in module.modules()}  # frozen parts stay in eval mode while others train
    device = next(module.parameters()).device.type
    try:
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
