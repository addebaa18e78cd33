"""A segmentor with the words it labels pictures with: scores, label maps and queries of one picture."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.errors import DataError
from opentrans_cli.frameworks.base import ClassText
from opentrans_cli.frameworks.mask_inference import semantic_scores
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.picture_size import Sides, at_size
from opentrans_cli.training.costs.macs import forward_macs

Queries = tuple[Tensor, Tensor, tuple[int, int]]
"""What `Predictor.queries` gives."""


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
    def scores(self, image: np.ndarray) -> Tensor:
        """Scores of every class at every pixel of `image` (H, W, 3) uint8: float32 (C, H, W), on the CPU.

        Raises DataError for an image smaller than the tower's stride.
        """
        scores: Tensor = self._module(self._batch(image), self._text)
        return at_size(scores[0].float().cpu(), image.shape[0], image.shape[1])

    def counted(self) -> AbstractContextManager[dict[str, int]]:
        """Inside the `with` block the MACs of its predictions are counted, by layer of the segmentor."""
        return forward_macs(self._module)

    def label_map(self, image: np.ndarray) -> Tensor:
        """Class of every pixel of `image`, as for `scores`: int64 (H, W), on the CPU."""
        return self.scores(image).argmax(0)

    @torch.no_grad()
    def queries(self, image: np.ndarray) -> Queries:
        """Class logits (Q, C + 1) and mask logits (Q, h, w) of a MaskSegmentor, on the CPU, and the size (H, W) of
        the resized picture.
        """
        batch = self._batch(image)
        found = self._module.queries(batch, self._text)
        return found.class_logits[0].cpu(), found.mask_logits[0].cpu(), (batch.shape[2], batch.shape[3])

    def scores_of(self, found: Queries, image: np.ndarray) -> Tensor:
        """`scores` of `image` from its `queries`, without running the segmentor again."""
        classes, masks, size = found
        return at_size(semantic_scores(classes[None], masks[None], size)[0], image.shape[0], image.shape[1])

    def looks_at(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which a picture of this size is resized."""
        return (height, width) if self._sides is None else self._sides.shape(height, width)

    def _batch(self, image: np.ndarray) -> Tensor:
        """`image` as input of the segmentor, resized and normalised (1, 3, H, W)."""
        looked_at = image if self._sides is None else self._sides.resized(image)
        height, width = looked_at.shape[:2]
        if min(height, width) < 32:
            raise DataError(f"image is smaller than the tower's stride of 32: {width} x {height}; enlarge it")
        return self._preprocess.normalise(torch.from_numpy(np.ascontiguousarray(looked_at))[None].to(self._device))
