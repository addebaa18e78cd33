"""The loss of a step of fine-tuning: its terms, and what the whole batch says they are divided by.

Terms are "pixels" for segmentors of pixels, "classes", "mask" and "dice" for those of masks, and "kd" and "grounding"
if they are asked for. Summed over all parts of a batch and all processes they give the loss of the step. Shapes: B
images, S side of the crop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from opentrans_cli.datasets.streams import Stream
from opentrans_cli.frameworks.mask_loss import (
    Matches,
    SetLossOptions,
    match_queries,
    present_classes,
    set_divisors,
    set_loss,
)
from opentrans_cli.steps.finetune.grounding import Grounding
from opentrans_cli.steps.finetune.module import Found, TrainedModule
from opentrans_cli.steps.finetune.options import FinetuneOptions
from opentrans_cli.steps.finetune.region_kd import RegionKd, Regions, RegionShare
from opentrans_cli.steps.training_data import IGNORED
from opentrans_cli.training.processes.distributed import World

# Losses on class scores. Shapes: B images, C classes, H W pixels.


def pixel_cross_entropy(
    scores: Tensor, label_map: Tensor, ignore_index: int, *, labelled: Tensor | float | None = None
) -> Tensor:
    """Cross-entropy summed over the labelled pixels and divided by `labelled`, 0-d; without any, zero with zero
    gradients.

    `scores`: (B, C, H, W), unnormalised. `label_map`: int64 (B, H, W), classes 0 to C - 1, or `ignore_index`.
    `labelled`: how many labelled pixels the whole batch has of which this is a part; None: this is the whole.
    """
    if labelled is None:
        labelled = (label_map != ignore_index).sum().clamp(min=1)
    return F.cross_entropy(scores, label_map, ignore_index=ignore_index, reduction="sum") / labelled


_SALT = 0x6C6F7373  # keeps these draws apart from those of other users of the same seed

Batch = tuple[Tensor, ...]
"""images float32 (B, 3, S, S), label maps int64 (B, S, S), draws int64 (B,), rows int64 (B,), features of a prefix."""


class Whole(NamedTuple):
    """What the terms of a step are divided by."""

    labelled: float  # pixels
    sets: Tensor  # see set_divisors
    captioned: float  # images whose words take part
    regions: RegionShare | None


class Part(NamedTuple):
    """A part of a batch as the terms want it."""

    label_maps: Tensor
    draws: list[int]  # numbers of the crops under this run's seed
    rows: list[int]


@dataclass(frozen=True)
class Terms:
    """What the loss is made of beside the labels."""

    options: FinetuneOptions
    world: World
    kd: RegionKd | None = None
    grounding: Grounding | None = None

    @property
    def sets(self) -> SetLossOptions:
        """Of the loss over sets of masks."""
        o = self.options
        return SetLossOptions(
            classes=o.class_weight,
            mask=o.mask_weight,
            dice=o.dice_weight,
            no_object=o.no_object_weight,
            points=o.points,
            oversample=o.oversample,
            importance=o.importance,
            region_dropout=o.region_dropout,
        )


class FinetuneLoss:
    """A Loss of training/loop.py that calls `module`, which is `trained` or a wrapper around it."""

    def __init__(self, module: nn.Module, trained: TrainedModule, terms: Terms) -> None:
        self._module: Callable[..., Found] = module
        self._trained, self._terms, self._sets = trained, terms, terms.sets

    def whole(self, batch: Batch) -> Whole:
        """What the terms of the step are divided by, from this process's share of it; all processes call it."""
        part = _part(batch, seed=self._terms.options.seed)
        labelled = (part.label_maps != IGNORED).sum().cpu().double()
        numbers = torch.cat([torch.stack([labelled, self._captioned(part)]), self._divisors(part)])
        self._terms.world.total(numbers)
        kd = self._terms.kd
        share = None if kd is None else kd.share(part.label_maps, part.draws)
        return Whole(float(numbers[0]), numbers[2:], float(numbers[1]), share)

    def _divisors(self, part: Part) -> Tensor:
        if not self._trained.masks:
            return torch.zeros(0, dtype=torch.float64)
        sizes = self._trained.segmentor.decoder.sizes
        return set_divisors(
            part.label_maps,
            part.draws,
            self._sets,
            classes=self._trained.text.classes,
            queries=sizes.queries,
            layers=sizes.decoder_layers + 1,
            ignore=IGNORED,
        )

    def _captioned(self, part: Part) -> Tensor:
        grounding, count = self._terms.grounding, 0
        if grounding is not None:
            masks = present_classes(part.label_maps, self._trained.text.classes, ignore=IGNORED).sum(1)
            count = grounding.count(part.rows, part.draws, masks.tolist())
        return torch.tensor(count, dtype=torch.float64)

    def __call__(self, batch: Batch, whole: Whole) -> Mapping[str, Tensor]:
        """The weighted terms of a part of the step, 0-d float32."""
        images, features, part = batch[0], batch[4:], _part(batch, seed=self._terms.options.seed)
        kd, regions = self._terms.kd, None
        if kd is not None and whole.regions is not None:
            regions = kd.regions(part.label_maps, part.draws, whole.regions)
        pooled = {} if self._trained.masks else {"label_maps": part.label_maps, "regions": regions}
        found = self._module(images, *features, **pooled)
        # Terms stay exact under the caller's autocast: they are sums over many pixels.
        with torch.autocast(images.device.type, enabled=False):
            return (self._of_masks if self._trained.masks else self._of_pixels)(found, part, whole, regions)

    def _of_pixels(self, found: Found, part: Part, whole: Whole, regions: Regions | None) -> dict[str, Tensor]:
        assert found.scores is not None
        labelled = max(1.0, whole.labelled)
        terms = {"pixels": pixel_cross_entropy(found.scores.float(), part.label_maps, IGNORED, labelled=labelled)}
        if regions is not None:
            terms["kd"] = self._taught(found.students[0], regions, found, part, whole)
        return terms

    def _of_masks(self, found: Found, part: Part, whole: Whole, regions: Regions | None) -> dict[str, Tensor]:
        queries = found.queries
        assert queries is not None
        matches = match_queries(queries, part.label_maps, part.draws, self._sets, ignore=IGNORED)
        terms = set_loss(queries, matches, part.label_maps, part.draws, self._sets, divisors=whole.sets, ignore=IGNORED)
        if regions is not None:
            parts = []
            for student, pairs in zip(found.students, matches, strict=True):
                chosen = _among(pairs, regions, self._trained.text.classes)
                students = student[chosen.image_of, chosen.query_of]
                parts.append(self._taught(students, Regions(chosen.image_of, chosen.class_of), found, part, whole))
            terms["kd"] = torch.stack(parts).sum()
        if self._terms.grounding is not None:
            terms["grounding"] = self._grounded(self._terms.grounding, found, matches, part, whole)
        return terms

    def _taught(self, students: Tensor, regions: Regions, found: Found, part: Part, whole: Whole) -> Tensor:
        kd = self._terms.kd
        assert kd is not None and whole.regions is not None and found.text_scale is not None
        value = kd(students, regions, part.rows, found.text_scale, whole.regions)
        return self._terms.options.kd_weight * value

    def _grounded(self, grounding: Grounding, found: Found, matches: list[Matches], part: Part, whole: Whole) -> Tensor:
        assert found.queries is not None and found.grounding_scale is not None
        parts = [
            grounding(embeddings.float(), pairs, part.rows, part.draws, found.grounding_scale, layer=layer)
            for layer, (embeddings, pairs) in enumerate(zip(found.queries.embeddings, matches, strict=True))
        ]
        weight = self._terms.options.grounding_weight
        return weight * torch.stack(parts).sum() / max(1.0, whole.captioned)


def _part(batch: Batch, *, seed: int) -> Part:
    draws = [int(Stream(seed ^ _SALT, draw).words(1)[0]) >> 1 for draw in batch[2].tolist()]
    return Part(batch[1], draws, batch[3].tolist())


def _among(pairs: Matches, regions: Regions, classes: int) -> Matches:
    """The matches whose regions are among `regions`."""
    chosen = torch.isin(pairs.image_of * classes + pairs.class_of, regions.image_of * classes + regions.class_of)
    return Matches(*(part[chosen] for part in pairs))
