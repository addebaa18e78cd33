"""Distillation of regions in fine-tuning: the segmentor's embeddings of labelled regions learn from the dense CLIP.

The loss is that of pruning (distill/text_guided.py; OpenTrans, arXiv 2404.07448, Sec. 3.2), the student's embeddings
are those of pooled pixels, or of the queries matched to the regions in each layer of a query decoder. Shapes: B
images, R regions, Q queries, W width, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.datasets.streams import Stream
from opentrans_cli.distill.regions import find_regions
from opentrans_cli.distill.text_guided import text_guided_loss
from opentrans_cli.frameworks.mask_decoder import MASK_STRIDE
from opentrans_cli.steps.region_teacher import MOST_REGIONS, RegionTeacher
from opentrans_cli.steps.training_data import IGNORED
from opentrans_cli.training.processes.distributed import World

_SALT = 0x6B64  # makes these random numbers independent of others for the same crop


class Regions(NamedTuple):
    """Regions of a batch, int64 (R,) each, sorted by image and then by class, both ascending."""

    image_of: Tensor
    class_of: Tensor


class RegionShare(NamedTuple):
    """Facts about all regions of a step in all processes."""

    limit: float  # the largest number of a region that takes part; regions are numbered at random, in [0, 1)
    terms: int  # number of terms of the loss, see `_terms`


class RegionKd:
    """The term of a batch. `text`: embeddings (C, D) of the bare names of the seen classes, on its device."""

    def __init__(self, teacher: RegionTeacher, text: Tensor, *, world: World, whole_cells: bool) -> None:
        """whole_cells: leave out regions that vanish on the grid of the student's embeddings, at stride 4."""
        self._teacher, self._text, self._world, self._whole_cells = teacher, text, world, whole_cells

    def share(self, label_maps: Tensor, seeds: Sequence[int]) -> RegionShare:
        """The share for the whole step, computed from this process's part; all processes must call it."""
        found = self._found(label_maps)
        numbers = self._numbers(found, seeds)
        limit = self._limit(numbers)
        terms = torch.tensor(_terms(found.image_of[numbers <= limit]))
        self._world.total(terms)
        return RegionShare(limit, int(terms))

    def _limit(self, numbers: Tensor) -> float:
        """The largest of the MOST_REGIONS smallest numbers of all processes."""
        sizes = torch.zeros(self._world.size, dtype=torch.int64)
        sizes[self._world.rank] = len(numbers)
        self._world.total(sizes)
        if int(sizes.sum()) <= MOST_REGIONS:
            return 1.0
        every = torch.zeros(int(sizes.sum()), dtype=torch.float64)
        first = int(sizes[: self._world.rank].sum())
        every[first : first + len(numbers)] = numbers
        self._world.total(every)
        return float(every.kthvalue(MOST_REGIONS).values)

    def regions(self, label_maps: Tensor, seeds: Sequence[int], share: RegionShare) -> Regions:
        """The regions of a part of the batch that take part, on its device."""
        found = self._found(label_maps)
        chosen = self._numbers(found, seeds) <= share.limit
        return Regions(*(part[chosen].to(label_maps.device) for part in found))

    def _found(self, label_maps: Tensor) -> Regions:
        height, width = label_maps.shape[1:]
        grid = (height // MASK_STRIDE, width // MASK_STRIDE) if self._whole_cells else (height, width)
        return Regions(*(part.cpu() for part in find_regions(label_maps, grid=grid, ignored=IGNORED)))

    @staticmethod
    def _numbers(regions: Regions, seeds: Sequence[int]) -> Tensor:
        """A number for each region, float64 (R,), which depends only on its crop and class."""
        pairs = zip(regions.image_of.tolist(), regions.class_of.tolist(), strict=True)
        drawn = [int(Stream(seeds[image] ^ _SALT, index).words(1)[0]) * 2.0**-64 for image, index in pairs]
        return torch.tensor(drawn, dtype=torch.float64)

    def __call__(
        self, student: Tensor, regions: Regions, rows: Sequence[int], scale: Tensor, share: RegionShare
    ) -> Tensor:
        """This part's share of the loss, 0-d. student: (R, D), of `regions`; rows: sample index of each image, (B,)."""
        teacher = [student.new_zeros(0, student.shape[1])]
        for image in regions.image_of.unique_consecutive().tolist():
            classes, embeddings = self._teacher(rows[image])
            wanted = regions.class_of[regions.image_of == image].cpu()
            teacher.append(embeddings[torch.from_numpy(np.searchsorted(classes.numpy(), wanted.numpy()))].to(student))
        loss, _ = text_guided_loss(
            student, torch.cat(teacher), self._text[regions.class_of], regions.image_of, scale[0]
        )
        return loss * (_terms(regions.image_of) / max(1, share.terms))


def _terms(image_of: Tensor) -> int:
    """The loss is a mean of this many terms: one for each region and one for each pair of regions of an image."""
    counts = image_of.bincount()
    return int((counts + counts.square()).sum())
