"""A segmentor with the words it labels pictures with: scores, label maps and queries of one picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.errors import PictureError
from opentrans_cli.frameworks.base import ClassText, MaskQueries
from opentrans_cli.frameworks.score_chunks import mask_chunks, score_chunks
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.picture_size import Sides, at_size
from opentrans_cli.training.costs.macs import forward_macs

Queries = tuple[Tensor, Tensor, tuple[int, int]]
"""What `Predictor.queries` gives."""


class Labels:
    """The class with the largest score at every pixel; of equal ones the first."""

    def __init__(self) -> None:
        self._best: tuple[Tensor, Tensor] | None = None
        self._classes = 0

    def add(self, part: Tensor) -> None:
        """Takes the scores of the next classes, (K, H, W)."""
        values, indices = part.max(0)
        if self._best is not None:
            best, labels = self._best
            better = values > best
            values, indices = torch.where(better, values, best), torch.where(better, indices + self._classes, labels)
        self._best, self._classes = (values, indices), self._classes + len(part)

    def map(self) -> Tensor:
        """Class of every pixel, int64 (H, W), on the CPU."""
        assert self._best is not None
        return self._best[1].cpu()


class Predictor:
    """A segmentor ready to label images with the classes of a vocabulary."""

    def __init__(
        self, built: BuiltSegmentor, text: ClassText, *, device: torch.device, sides: Sides | None = None
    ) -> None:
        self.framework = built.framework.name
        self._module: Any = built.module.to(device).eval()
        self._preprocess = built.tower.preprocess
        self._device, self._text, self._sides = device, text.to(device), sides

    @torch.no_grad()
    def parts(self, image: np.ndarray, found: Queries | None = None) -> Iterator[Tensor]:
        """Scores of every class at every pixel of `image` (H, W, 3) uint8, some following classes at a time.

        float32 (K, H, W), on the segmentor's device. found: the `queries` of the image, if they are there. Raises
        PictureError for an image smaller than the tower's stride.
        """
        if found is None:
            chunks = score_chunks(self._module, self._batch(image), self._text)
        else:
            chunks = mask_chunks(MaskQueries(found[0][None], found[1][None]), found[2])
        for chunk in chunks:
            yield at_size(chunk[0].float(), image.shape[0], image.shape[1])

    def scores(self, image: np.ndarray) -> Tensor:
        """All `parts` of an image: float32 (C, H, W), on the CPU."""
        return torch.cat([part.cpu() for part in self.parts(image)])

    def counted(self) -> AbstractContextManager[dict[str, int]]:
        """Inside the `with` block the MACs of its predictions are counted, by layer of the segmentor."""
        return forward_macs(self._module)

    def label_map(self, image: np.ndarray) -> Tensor:
        """Class of every pixel of `image`, the one with the largest of its scores: int64 (H, W), on the CPU."""
        labels = Labels()
        for part in self.parts(image):
            labels.add(part)
        return labels.map()

    @torch.no_grad()
    def queries(self, image: np.ndarray) -> Queries:
        """Class logits (Q, C + 1) and mask logits (Q, h, w) of a MaskSegmentor, on the CPU, and the size (H, W) of
        the resized picture.
        """
        batch = self._batch(image)
        found = self._module.queries(batch, self._text)
        return found.class_logits[0].cpu(), found.mask_logits[0].cpu(), (batch.shape[2], batch.shape[3])

    def check_size(self, image: np.ndarray, name: str) -> None:
        """Raises PictureError, which names the picture, if it is smaller than the tower's stride."""
        height, width = self.looks_at(image.shape[0], image.shape[1])
        if min(height, width) < 32:
            raise PictureError(
                f"image is smaller than the tower's stride of 32: {name} ({width} x {height}); enlarge it"
            )

    def looks_at(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a picture of this size is resized."""
        return (height, width) if self._sides is None else self._sides.shape(height, width)

    def _batch(self, image: np.ndarray) -> Tensor:
        """`image` as input of the segmentor, resized and normalised (1, 3, H, W)."""
        self.check_size(image, "a picture")
        looked_at = image if self._sides is None else self._sides.resized(image)
        return self._preprocess.normalise(torch.from_numpy(np.ascontiguousarray(looked_at))[None].to(self._device))
