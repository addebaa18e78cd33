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
"""Pixels that are looked at together: what is known of them stays in the cache while classes go by."""


class Labels:
    """The class with the largest score at every pixel; of equal ones the first."""

    def __init__(self) -> None:
        self._labels: Tensor | None = None
        self._first: Tensor | None = None  # the first part, until a second one comes
        self._best: Tensor | None = None  # from then on the largest scores
        self._classes = 0

    def add(self, part: Tensor) -> None:
        """Takes the scores of the next classes, (K, H, W), float32."""
        before, self._classes = self._classes, self._classes + len(part)
        found = largest(part)
        if self._labels is None:
            self._labels, self._first = found, part
            return
        if self._first is not None:
            self._best, self._first = _scores_of(self._labels, self._first), None
        assert self._best is not None
        scores = _scores_of(found, part)
        better = scores > self._best
        self._best = torch.where(better, scores, self._best)
        self._labels = torch.where(better, found + before, self._labels)

    def map(self) -> NDArray[np.unsignedinteger]:
        """Class of every pixel, (H, W): uint8, or uint16 where that is too small."""
        assert self._labels is not None
        return narrowest(self._labels.cpu().numpy(), self._classes - 1)


def largest(scores: Tensor) -> Tensor:
    """The place of the largest of the scores (K, H, W) of each pixel, of equal ones the first: int64 (H, W).

    On the CPU by numpy, which is several times as fast at it as torch.
    """
    if scores.device.type != "cpu":
        return scores.max(0)[1]
    by_pixel = scores.permute(1, 2, 0)
    if by_pixel.is_contiguous():  # channels last, as convolutions leave them
        return torch.from_numpy(by_pixel.numpy().argmax(-1))
    by_class = scores.contiguous().numpy().reshape(len(scores), -1)
    labels = np.zeros(by_class.shape[1], np.min_scalar_type(len(scores) - 1))
    for start in range(0, labels.size, _BLOCK):
        here = slice(start, start + _BLOCK)
        best = by_class[0, here].copy()
        for place, row in enumerate(by_class[1:, here], 1):
            # Later places are larger, so the largest of those that were better once is the last of them.
            np.maximum(labels[here], (row > best) * labels.dtype.type(place), out=labels[here])
            np.maximum(best, row, out=best)
    return torch.from_numpy(labels.astype(np.int64).reshape(scores.shape[1:]))


def _scores_of(labels: Tensor, part: Tensor) -> Tensor:
    """The scores (H, W) of the classes `labels` in a part (K, H, W)."""
    return part.gather(0, labels[None])[0]


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
