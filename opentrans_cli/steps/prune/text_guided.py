"""Text-guided distillation on a labelled data set: the teacher's region embeddings, the student, the loss of a step."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.options import CropOptions
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.distill.regions import find_regions, pool_regions
from opentrans_cli.distill.text_guided import Mode, RegionHeads, text_guided_loss
from opentrans_cli.errors import OptionError, unknown
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.steps.region_teacher import MOST_REGIONS, EmbedNames, RegionTeacher
from opentrans_cli.steps.segmentors.built import build_segmentor
from opentrans_cli.steps.sources import Tower
from opentrans_cli.steps.training_data import IGNORED, TrainingData
from opentrans_cli.training.loop import Batch

_SALT = 0x726567696F6E73  # makes these random numbers independent of others from the same seed


@dataclass(frozen=True)
class RegionSettings:
    """Settings of the distillation. Raises OptionError if a value is out of range."""

    batch_size: int  # images of a step
    seed: int
    mode: Mode = "text-guided"
    framework: str = "deeplabv3"  # the framework that makes embeddings of regions from the tower
    framework_options: Mapping[str, Any] | None = None
    crop: int | None = None  # side of training crops in pixels; None = what the data set suggests

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise OptionError(unknown("distillation loss", self.mode, get_args(Mode)))
        if FRAMEWORKS.load(self.framework).masks:
            pixels = [name for name in FRAMEWORKS.names() if not FRAMEWORKS.load(name).masks]
            raise OptionError(
                f"finds masks, and has no embeddings of regions to compare: --framework {self.framework}; "
                f"choose {' or '.join(pixels)}"
            )


class RegionDistillation:
    """The loss of a step for the tower that is being pruned; a function of the batch and of the weights.

    The tower is moved to `device` and not changed otherwise. The student is a segmentor around a second module tree
    with the same parameters and buffers. The framework dilates the second tree and removes its attention pool, while
    every optimizer step and mask acts on both. Do not move the tower, and copy into its tensors instead of assigning
    new ones: otherwise the two no longer share them. Until `detach`, parameters that the framework fixes stay fixed.
    """

    def __init__(
        self, tower: Tower, samples: SegDataset, settings: RegionSettings, *, text: EmbedNames, device: torch.device
    ) -> None:
        """The tower as it is now, dense, is the teacher.

        Raises OptionError for data or settings that give nothing to learn, DataError for images without label maps,
        SourceError for a tower the framework cannot use.
        """
        self.tower, self.settings, self.device = tower, settings, device
        options = CropOptions(batch_size=settings.batch_size, crop=settings.crop, seed=settings.seed)
        self.data = TrainingData(samples, options, preprocess=tower.preprocess)
        tower.visual.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = RegionTeacher(tower.visual, self.data)
        self.teacher(0)
        self._trainable = {name: parameter.requires_grad for name, parameter in tower.visual.named_parameters()}
        built = build_segmentor(
            replace(tower, built=sharing_copy(tower.visual)),
            settings.framework,
            options=settings.framework_options,
            seed=settings.seed,
        )
        self.student: Any = built.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # The classifier comes after the embeddings, so the loss gives it no gradient.
        parts = {name: part for name, part in self.student.named_children() if name not in ("backbone", "classifier")}
        self.head = RegionHeads(1, built.dimension, built.dimension).to(device)
        self.learned = nn.ModuleDict({"regions": self.head, **parts})
        self.text = text(self.data.seen_vocabulary.names).to(device)
        self.figures: dict[str, float] = {}  # of the last step

    @property
    def fingerprint(self) -> str:
        """ "sha256:<hex>" of the data the loss is made of: images, label maps, seen classes, crop, and class names."""
        return f"sha256:{hashlib.sha256(f'regions {self.data.content_fingerprint}'.encode()).hexdigest()}"

    def batch(self, step: int) -> Batch:
        """Images, label maps, sample numbers and samples of step `step` (from 0)."""
        return self.data.batch(step)

    def loss_of(self, called: nn.Module) -> RegionDistillation:
        """Returns itself as the loss: the student uses the tower's parameters directly."""
        return self

    def whole(self, batch: Batch) -> None:
        """Nothing to compute: one part is the whole batch."""

    def __call__(self, part: Batch, whole: None = None) -> dict[str, Tensor]:
        """The loss of a batch; `figures` are then its `visual` and `affinity` terms, `scale` and `regions`.

        The student is in training mode, so the tower's BatchNorm statistics change. Under autocast only the student's
        features have lower precision. A batch without a labelled pixel gives zero and teaches nothing. Raises DataError
        for a damaged file or an image without a label map.
        """
        images, label_maps, numbers, rows = part
        taught = [self.teacher(row) for row in rows.tolist()]
        self.student.train()
        embedding = self.student.embed(images.to(self.device))
        image_of, class_of = find_regions(label_maps, grid=embedding.shape[2:], ignored=IGNORED)
        image_of, class_of = self._at_most(image_of, class_of, int(numbers[0]) // self.settings.batch_size)
        with torch.autocast(self.device.type, enabled=False):
            loss, terms = self._compare(embedding.float(), label_maps, taught, image_of=image_of, class_of=class_of)
        names, values = [*terms, "scale"], [*terms.values(), self.head.scale[0].detach()]
        figures = dict(zip(names, torch.stack(values).tolist(), strict=True))
        self.figures = {**figures, "regions": float(len(image_of))}
        return {self.settings.mode: loss}

    def _compare(
        self,
        embedding: Tensor,
        label_maps: Tensor,
        taught: Sequence[tuple[Tensor, Tensor]],
        *,
        image_of: Tensor,
        class_of: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        teacher = [embedding.new_zeros(0, embedding.shape[1])]
        for index in image_of.unique_consecutive().tolist():
            classes, rows = taught[index]
            teacher.append(rows[torch.searchsorted(classes, class_of[image_of == index])].to(self.device))
        image_of, class_of = image_of.to(self.device), class_of.to(self.device)
        pooled = pool_regions(embedding, label_maps.to(self.device), image_of=image_of, class_of=class_of)
        return text_guided_loss(
            self.head((pooled,))[0],
            torch.cat(teacher),
            self.text[class_of],
            image_of,
            self.head.scale[0],
            mode=self.settings.mode,
        )

    def _at_most(self, image_of: Tensor, class_of: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """At most MOST_REGIONS of the regions, in their order."""
        if len(image_of) <= MOST_REGIONS:
            return image_of, class_of
        words = Stream(self.settings.seed ^ _SALT, step).words(len(image_of))
        chosen = torch.from_numpy(np.sort(np.argsort(words, kind="stable")[:MOST_REGIONS]))
        return image_of[chosen], class_of[chosen]

    def detach(self) -> nn.Module:
        """The tower, in eval mode, with the same trainable parameters as before; call it after distillation."""
        for name, parameter in self.tower.visual.named_parameters():
            parameter.requires_grad_(self._trainable[name])
        return self.tower.visual.eval()


def sharing_copy(visual: nn.Module) -> nn.Module:
    """A second module tree with the parameters and buffers of `visual`; changing its modules leaves `visual` alone.

    Whatever writes into the tensors (an optimizer, a mask, BatchNorm in training) changes both.
    """
    own = {id(tensor): tensor for tensor in (*visual.parameters(), *visual.buffers())}
    return copy.deepcopy(visual, own)
