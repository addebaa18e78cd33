"""A segmentor with the words it labels pictures with: scores, label maps and queries of one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
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


_BLOCK = 1 << 15
"""Pixels that are looked at together on the CPU: what is known of them stays in the cache while classes go by."""


class Labels:
    """The class with the largest score at every pixel; of equal ones the first."""

    def __init__(self) -> None:
        self._best: Tensor | None = None
        self._labels: Any = None  # class of every pixel: an array on the CPU, else a tensor
        self._classes = 0

    def add(self, part: Tensor) -> None:
        """Takes the scores of the next classes, (K, H, W), float32."""
        first, self._classes = self._classes, self._classes + len(part)
        if part.device.type == "cpu":
            self._add_here(part.contiguous().numpy(), first)
            return
        values, indices = part.max(0)
        if self._best is not None:
            better = values > self._best
            indices = torch.where(better, indices + first, self._labels)
            values = torch.where(better, values, self._best)
        self._best, self._labels = values, indices

    def _add_here(self, part: NDArray[np.float32], first: int) -> None:
        """The same five times as fast as torch's maximum, which finds the indices of one pixel after another."""
        scores = part.reshape(len(part), -1)
        if self._best is None:
            self._best = torch.from_numpy(part[0].copy())
            self._labels = np.zeros(part.shape[1:], np.uint8)
        if self._classes > 1 << 8 and self._labels.dtype == np.uint8:
            self._labels = self._labels.astype(np.uint16)
        best, labels = self._best.numpy().reshape(-1), self._labels.reshape(-1)
        better, found = np.empty(_BLOCK, np.bool_), np.empty(_BLOCK, labels.dtype)
        for start in range(0, labels.size, _BLOCK):
            here = slice(start, min(start + _BLOCK, labels.size))
            count = here.stop - start
            for place, row in enumerate(scores[:, here], first):
                np.greater(row, best[here], out=better[:count])
                np.maximum(row, best[here], out=best[here])
                # Later classes have larger numbers, so the largest of those that were better once is the last of them.
                np.multiply(better[:count], labels.dtype.type(place), out=found[:count])
                np.maximum(labels[here], found[:count], out=labels[here])

    def map(self) -> NDArray[np.unsignedinteger]:
        """Class of every pixel, (H, W): uint8, or uint16 where that is too small."""
        if isinstance(self._labels, Tensor):
            narrow = torch.uint8 if self._classes <= 1 << 8 else torch.int32
            return narrowest(self._labels.to(narrow).cpu().numpy(), self._classes - 1)
        found: NDArray[np.unsignedinteger] = self._labels
        return found


def narrowest(ids: NDArray[np.integer], largest: int) -> NDArray[np.unsignedinteger]:
    """`ids`, all from 0 to `largest`, in the narrowest type that holds them, which is the fastest to count."""
    narrow: NDArray[np.unsignedinteger] = ids.astype(np.min_scalar_type(largest), copy=False)
    return narrow


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

    def map(self) -> NDArray[np.unsignedinteger]:
        """Class of every pixel, (H, W): uint8, or uint16 where that is too small."""
        found = self._labels.map()
        if self._unsure is None or self._certainty is None:
            return found
        sure = (self._certainty.map() >= self._unsure.threshold).numpy()
        return np.where(sure, found, np.min_scalar_type(self._unsure.label).type(self._unsure.label))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as a segmentor takes it."""

    pixels: NDArray[Any]  # (h, w, 3), resized: normalised, or RGB if the device does that
    shape: tuple[int, int]  # height and width of the picture itself, which its scores get
    in_windows: Windows | None = None  # then `pixels` are those of the picture itself


AnyPicture = NDArray[np.uint8] | Prepared
"""A picture, uint8 (H, W, 3) RGB, or what `Predictor.prepared` made of it."""


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

    def prepared(self, image: AnyPicture, name: str = "a picture") -> Prepared:
        """`image` resized and, for a segmentor on the CPU, normalised. Any thread may do that ahead of the model.

        A picture in windows stays as it is. Raises PictureError, with the picture's `name`, for one smaller than the
        tower's stride.
        """
        if isinstance(image, Prepared):
            return image
        self.check_size(image, name)
        shape = (image.shape[0], image.shape[1])
        if self._windows is not None and not self._windows.one(image):
            return Prepared(image, shape, in_windows=self._windows)
        return Prepared(self._resized(image), shape)

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """The pixels of a whole picture as `Prepared` has them."""
        looked_at = image if self._sides is None else self._sides.resized(image)
        # Another device gets the smaller pixels and is faster at the rest.
        return self._preprocess.normalised(looked_at) if self._device.type == "cpu" else looked_at

    @torch.no_grad()
    def parts(self, image: AnyPicture, found: Queries | None = None) -> Iterator[Tensor]:
        """Scores of every class at every pixel of `image`, some following classes at a time.

        float32 (K, H, W), on the segmentor's device. found: the `queries` of the image, if they are there. Raises
        PictureError for an image smaller than the tower's stride.
        """
        prepared = self.prepared(image)
        if found is None and prepared.in_windows is not None:
            yield from prepared.in_windows.parts(self._look_at(prepared), prepared.shape, self._text.classes)
            return
        if found is None:
            chunks = score_chunks(self._module, self._batch(prepared.pixels), self._text)
        else:
            chunks = mask_chunks(MaskQueries(found[0][None], found[1][None]), found[2])
        for chunk in chunks:
            yield at_size(chunk[0].float(), *prepared.shape)

    def scores(self, image: AnyPicture) -> Tensor:
        """All `parts` of an image: float32 (C, H, W), on the CPU."""
        return torch.cat([part.cpu() for part in self.parts(image)])

    def counted(self) -> AbstractContextManager[dict[str, int]]:
        """Inside the `with` block the MACs of its predictions are counted, by layer of the segmentor."""
        return forward_macs(self._module)

    @torch.no_grad()
    def label_map(self, image: AnyPicture, found: Queries | None = None) -> NDArray[np.unsignedinteger]:
        """Class of every pixel of `image`, the one with the largest of its scores: (H, W), see `Labels.map`.

        found: the `queries` of the image, if they are there. Of a picture in windows no more than a strip is held.
        """
        prepared = self.prepared(image)
        if prepared.in_windows is None or found is not None:
            return self.labelled(self.parts(prepared, found))
        strips = prepared.in_windows.strips(self._look_at(prepared), prepared.shape, self._text.classes)
        return np.concatenate([self.labelled(parts) for parts in strips])

    def labelled(self, parts: Iterable[Tensor]) -> NDArray[np.unsignedinteger]:
        """Class of every pixel, (H, W), from its scores as `parts` gives them; see `Labels.map`."""
        labels = self.labelling()
        for part in parts:
            labels.add(part)
        return labels.map()

    def labelling(self) -> Labelling:
        """What takes the parts of a picture's scores and gives its label map."""
        return Labelling(self._unsure, logits=self._logits)

    @torch.no_grad()
    def queries(self, image: AnyPicture) -> Queries:
        """Class logits (Q, C + 1) and mask logits (Q, h, w) of a MaskSegmentor, on the CPU, and the size (H, W) of
        the resized picture.
        """
        prepared = self.prepared(image)
        pixels = prepared.pixels if prepared.in_windows is None else self._resized(prepared.pixels)
        batch = self._batch(pixels)
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

    def _look_at(self, picture: Prepared) -> LookAt:
        def look(top: int, left: int, height: int, width: int) -> Look:
            window = picture.pixels[top : top + height, left : left + width]
            return Look.at(self._module, self._batch(self.prepared(window).pixels), self._text)

        return look

    def _batch(self, pixels: NDArray[Any]) -> Tensor:
        """Input of the segmentor (1, 3, H, W), from the pixels of a Prepared."""
        batch = torch.from_numpy(np.ascontiguousarray(pixels))[None].to(self._device)
        return self._preprocess.normalise(batch) if batch.dtype == torch.uint8 else batch.permute(0, 3, 1, 2)
