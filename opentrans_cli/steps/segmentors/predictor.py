"""A segmentor with the words it labels pictures with: scores, label maps and queries of one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.errors import PictureError
from opentrans_cli.frameworks.base import ClassText, MaskQueries
from opentrans_cli.frameworks.score_chunks import Look, mask_chunks, score_chunks
from opentrans_cli.steps.segmentors.built import BuiltSegmentor
from opentrans_cli.steps.segmentors.certainty import Certainty, Unsure
from opentrans_cli.steps.segmentors.picture_size import Sides, at_size
from opentrans_cli.steps.segmentors.windows import LookAt, Windows
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


class Labelling:
    """`Labels` in which pixels whose class is not sure have the class of `unsure`."""

    def __init__(self, unsure: Unsure | None, *, logits: bool) -> None:
        self._labels, self._unsure = Labels(), unsure
        self._certainty = None if unsure is None else Certainty(logits=logits)

    def add(self, part: Tensor) -> None:
        """Takes the scores of the next classes, (K, H, W)."""
        self._labels.add(part)
        if self._certainty is not None:
            self._certainty.add(part)

    def map(self) -> Tensor:
        """Class of every pixel, int64 (H, W), on the CPU."""
        found = self._labels.map()
        if self._unsure is not None and self._certainty is not None:
            found[self._certainty.map() < self._unsure.threshold] = self._unsure.label
        return found


class Predictor:
    """A segmentor ready to label images with the classes of a vocabulary."""

    def __init__(
        self,
        built: BuiltSegmentor,
        text: ClassText,
        *,
        device: torch.device,
        sides: Sides | None = None,
        windows: Windows | None = None,
        unsure: Unsure | None = None,
    ) -> None:
        """sides: the size to which pictures, or their windows, are resized. unsure: where no class is sure enough."""
        self.framework = built.framework.name
        self._windows, self._unsure, self._logits = windows, unsure, not built.framework.masks
        self._module: Any = built.module.to(device).eval()
        self._preprocess = built.tower.preprocess
        self._device, self._text, self._sides = device, text.to(device), sides

    @torch.no_grad()
    def parts(self, image: np.ndarray, found: Queries | None = None) -> Iterator[Tensor]:
        """Scores of every class at every pixel of `image` (H, W, 3) uint8, some following classes at a time.

        float32 (K, H, W), on the segmentor's device. found: the `queries` of the image, if they are there. Raises
        PictureError for an image smaller than the tower's stride.
        """
        if found is None and self._windows is not None and not self._windows.one(image):
            yield from self._windows.parts(self._look_at(image), (image.shape[0], image.shape[1]), self._text.classes)
            return
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

    @torch.no_grad()
    def label_map(self, image: np.ndarray) -> Tensor:
        """Class of every pixel of `image`, the one with the largest of its scores: int64 (H, W), on the CPU.

        Of a picture in windows no more than a strip is held.
        """
        if self._windows is None or self._windows.one(image):
            return self.labelled(self.parts(image))
        strips = self._windows.strips(self._look_at(image), (image.shape[0], image.shape[1]), self._text.classes)
        return torch.cat([self.labelled(parts) for parts in strips])

    def labelled(self, parts: Iterable[Tensor]) -> Tensor:
        """Class of every pixel, int64 (H, W), on the CPU, from its scores as `parts` gives them."""
        labels = self.labelling()
        for part in parts:
            labels.add(part)
        return labels.map()

    def labelling(self) -> Labelling:
        """What takes the parts of a picture's scores and gives its label map."""
        return Labelling(self._unsure, logits=self._logits)

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
        """Height and width to which a picture of this size, or each of its windows, is resized."""
        if self._windows is not None:
            height, width = min(height, self._windows.side), min(width, self._windows.side)
        return (height, width) if self._sides is None else self._sides.shape(height, width)

    def _look_at(self, image: np.ndarray) -> LookAt:
        def look(top: int, left: int, height: int, width: int) -> Look:
            window = image[top : top + height, left : left + width]
            return Look.at(self._module, self._batch(window), self._text)

        return look

    def _batch(self, image: np.ndarray) -> Tensor:
        """`image` as input of the segmentor, resized and normalised (1, 3, H, W)."""
        self.check_size(image, "a picture")
        looked_at = image if self._sides is None else self._sides.resized(image)
        return self._preprocess.normalise(torch.from_numpy(np.ascontiguousarray(looked_at))[None].to(self._device))
