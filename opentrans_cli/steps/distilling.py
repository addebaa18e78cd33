"""The distillation of one pruning run: its images, the teacher's embeddings, and one optimizer for all rounds."""

from __future__ import annotations

import torch
from torch import Tensor

from opentrans_cli.datasets.sampling import batch_indices
from opentrans_cli.distill.image import DistillSettings, distill_round, embed, make_optimizer
from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.steps.options import PruneOptions
from opentrans_cli.steps.pixels import pixel_fingerprint
from opentrans_cli.steps.reporter import Reporter
from opentrans_cli.steps.sources import Tower


class Distillation:
    """Moves the tower to `device`; its dense weights at that moment are the teacher."""

    def __init__(
        self, tower: Tower, images: Tensor, options: PruneOptions, *, rounds: int, device: torch.device
    ) -> None:
        """`images`: uint8 (N, S, S, 3), N at least the batch size; else OptionError."""
        if len(images) < options.batch_size:
            raise OptionError(
                f"fewer images than --batch-size: {len(images)} < {options.batch_size}; lower it or give more images"
            )
        self.images, self.normalise = images, tower.preprocess.normalise
        self.fingerprint = pixel_fingerprint(images)
        self.settings = DistillSettings(
            steps=options.steps_per_round,
            final_steps=options.final_steps,
            rounds=rounds,
            batch_size=options.batch_size,
            lr=options.lr,
            seed=options.seed,
        )
        tower.visual.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = embed(tower.visual, images, self.normalise)
        self.optimizer = make_optimizer(tower.visual, self.settings)

    def run_round(self, tower: Tower, number: int, *, title: str, reporter: Reporter) -> float:
        """Distil round `number`, counted from 0, with the tower's masks held; returns the loss at its end."""
        settings = self.settings
        with reporter.bar(title, settings.steps_of(number)) as advance:
            return distill_round(
                tower.visual,
                self.optimizer,
                settings,
                images=self.images,
                teacher=self.teacher,
                normalise=self.normalise,
                batch_of=lambda step: batch_indices(
                    step, count=len(self.images), batch_size=settings.batch_size, seed=settings.seed
                ),
                number=number,
                after_step=hold(tower.visual, tower.masks),
                on_step=lambda step, loss: advance(f"loss {loss:.4f}"),
            )
