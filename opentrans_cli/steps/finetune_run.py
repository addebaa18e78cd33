"""One fine-tuning run: what is frozen, the loop, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.bundle.encode import stored_hashes
from opentrans_cli.bundle.history import FROZEN_TENSORS
from opentrans_cli.clip.layers import batchnorm_of
from opentrans_cli.errors import TrainingError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.mask_loss import set_loss
from opentrans_cli.sparsity.masking import hold
from opentrans_cli.steps.options import FinetuneOptions
from opentrans_cli.steps.reporter import Reporter
from opentrans_cli.steps.segmentors import BACKBONE, BuiltSegmentor, class_owners
from opentrans_cli.steps.sources import numpy_masks
from opentrans_cli.steps.training_data import IGNORED, TrainingData
from opentrans_cli.training.cost import LayerCost, cost_receipt
from opentrans_cli.training.freezing import freeze_layers, state_hash
from opentrans_cli.training.loop import TrainLog, train
from opentrans_cli.training.losses import pixel_cross_entropy
from opentrans_cli.training.settings import TrainSettings

_STATE_EVERY = 100  # steps between two states on disk


class FinetuneRun:
    """Works on the segmentor `built` in place; `frozen` are layers of the tower."""

    def __init__(
        self,
        built: BuiltSegmentor,
        feed: TrainingData,
        *,
        frozen: tuple[str, ...],
        options: FinetuneOptions,
        device: torch.device,
    ) -> None:
        self.built, self.feed, self.frozen, self.options = built, feed, frozen, options
        self.module = built.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = device
        self._unfrozen_costs = self._costs()
        partners = dict.fromkeys(_whole(self.module), None) if built.framework.frozen_trunk else self._partners()
        self.fixed = freeze_layers(self.module, partners, batchnorm_of=partners)
        self._hash_before = state_hash(self.module, self.fixed)

    def train(self, text: ClassText, *, resume_from: Path | None, checkpoint: Path, reporter: Reporter) -> TrainLog:
        """Run the loop with the embeddings of the seen classes.

        Raises TrainingError for a loss that is not finite, or if a frozen layer changed.
        """
        loss = self._loss(text.to(self.device))
        with reporter.bar("fine-tuning", self.options.steps) as advance:
            log = train(
                self.module,
                self.feed.batch,
                self._settings(),
                loss=loss,
                after_step=hold(self.module, self.built.masks(), self.built.held()),
                state=resume_from,
                checkpoint=checkpoint,
                identity={"data": self.feed.fingerprint, "frozen": list(self.fixed)},
                progress=lambda step, figures: advance(f"loss {figures['loss']:.3f}"),
            )
        if state_hash(self.module, self.fixed) != self._hash_before:
            raise TrainingError("a frozen layer changed in training; nothing was written; report this as a bug")
        return log

    def _partners(self) -> dict[str, str | None]:
        """The layers to freeze inside the module, each with the BatchNorm behind it."""
        pairs = ((layer, batchnorm_of(self.built.tower.visual, layer)) for layer in self.frozen)
        return {f"{BACKBONE}{layer}": norm and f"{BACKBONE}{norm}" for layer, norm in pairs}

    def _loss(self, text: ClassText) -> Callable[[Tensor, Tensor], Tensor]:
        module: Any = self.module
        if self.built.framework.masks:
            return lambda images, label_maps: set_loss(module.queries(images, text), label_maps, ignore=IGNORED)
        return lambda images, label_maps: pixel_cross_entropy(module(images, text), label_maps, ignore_index=IGNORED)

    def _settings(self) -> TrainSettings:
        options = self.options
        return TrainSettings(
            steps=options.steps,
            batch_size=options.batch_size,
            lr=options.lr,
            backbone_lr_factor=options.backbone_lr_factor,
            weight_decay=options.weight_decay,
            warmup_steps=min(20, options.steps // 10),
            seed=options.seed,
            checkpoint_every=_STATE_EVERY,
            log_every=1,
        )

    def _costs(self) -> tuple[LayerCost, ...]:
        return self.built.costs(
            (self.feed.crop, self.feed.crop), owners=class_owners(self.feed.seen_vocabulary), training=True
        )

    def receipt(self) -> dict[str, Any]:
        """The cost receipt of `artifacts.schema.json`: counted MACs of the whole run, and the proof of freezing."""
        cost = cost_receipt(
            self._costs(),
            resolution=(self.feed.crop, self.feed.crop),
            images=self.options.steps * self.options.batch_size,
            baseline=self._unfrozen_costs,
        )
        return {
            "unit": cost.unit,
            "forward": cost.forward,
            "input_gradient": cost.input_gradient,
            "weight_gradient": cost.weight_gradient,
            "total": cost.total,
            "unmasked_total": cost.unmasked_total,
            "dense_total": cost.dense_total,
            "images": cost.images,
            "resolution": list(cost.resolution),
            "frozen_layers": list(self.frozen),
            "frozen_hash": f"sha256:{self._hash_before}",
            FROZEN_TENSORS: self._frozen_tensors(),
        }

    def _frozen_tensors(self) -> dict[str, str]:
        """Hashes of what was frozen, as the bundle stores it: later it can be compared with that of the parent."""
        tower, bundle = self.built.tower, self.built.tower.bundle
        assert bundle is not None
        owners = {name.removeprefix(BACKBONE) for name in self.fixed}
        parts = {name: value for name, value in self.built.tower_tensors().items() if name.rpartition(".")[0] in owners}
        masks = numpy_masks({layer: mask for layer, mask in tower.masks.items() if layer in owners})
        return stored_hashes(parts, masks, bundle.manifest.layers[0].dtype)


def _whole(module: nn.Module) -> Iterator[str]:
    """Names of all modules of the tower that hold a tensor themselves."""
    for name, part in module.named_modules():
        if name.startswith(BACKBONE) and (part._parameters or part._buffers):
            yield name
