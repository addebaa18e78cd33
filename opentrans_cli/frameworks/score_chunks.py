"""Scores of all classes at all pixels, some classes at a time, so that memory does not grow with their product.

847 classes on a photo of 12 megapixels have 10 thousand million scores, 40 GB. Enlarging to pixels treats every class
on its own, so a few at a time give the same values. Shapes: B images, S texts, C classes, K of them, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from opentrans_cli.frameworks.base import ClassText, MaskQueries, class_scores
from opentrans_cli.frameworks.mask_inference import semantic_scores
from opentrans_cli.frameworks.readout import resize

MOST = 2**24
"""Scores that are computed at once: 64 MiB."""

MOST_OF_MASKS = 2**26
"""The same where every chunk has to enlarge the masks of all queries again."""


def score_chunks(segmentor: Any, images: Tensor, text: ClassText, *, most: int | None = None) -> Iterator[Tensor]:
    """What `segmentor(images, text)` gives, in parts (B, K, H, W) of following classes, float32.

    The segmentor runs once; its text is read in parts too. most: scores in a part, of one class at least.
    """
    if hasattr(segmentor, "queries"):
        size = (images.shape[-2], images.shape[-1])
        yield from mask_chunks(segmentor.queries(images, text), size, most=most)
        return
    limit = most or MOST
    grid = segmentor.embed(images)
    cells, pixels = len(grid) * grid[0, 0].numel(), len(images) * images[0, 0].numel()
    order = sorted(range(len(text.class_indices)), key=text.class_indices.__getitem__)
    embeddings = text.embeddings[order]
    synonyms = [0] * text.classes
    for index in text.class_indices:
        synonyms[index] += 1
    for coarse in _parts(synonyms, limit // cells):
        first = sum(synonyms[: coarse.start])
        small = segmentor.classifier(grid, embeddings[first : first + sum(synonyms[coarse])])
        for fine in _parts(synonyms[coarse], limit // pixels):
            start, counts = sum(synonyms[coarse][: fine.start]), synonyms[coarse][fine]
            rows = small[:, start : start + sum(counts)]
            yield _largest(rows, counts, limit // pixels, partial(resize, like=images))


def mask_chunks(found: MaskQueries, size: tuple[int, int], *, most: int | None = None) -> Iterator[Tensor]:
    """`semantic_scores` of queries at `size` (H, W), in parts as `score_chunks` gives them."""
    classes = found.class_logits.shape[-1] - 1
    for part in _parts([1] * classes, (most or MOST_OF_MASKS) // (len(found.class_logits) * size[0] * size[1])):
        yield semantic_scores(found.class_logits, found.mask_logits, size, classes=part)


@dataclass(frozen=True)
class Look:
    """What a segmentor found in images, small enough to keep that of many windows, and good for scores of any classes.

    Of the texts' scores on the grid, and the grid itself, the one with fewer channels is kept.
    """

    segmentor: Any
    text: ClassText
    size: tuple[int, int]  # height and width of the images
    queries: MaskQueries | None = None
    grid: Tensor | None = None  # (B, D, h, w)
    small: Tensor | None = None  # (B, S, h, w), texts in the order of the classes

    @classmethod
    def at(cls, segmentor: Any, images: Tensor, text: ClassText) -> Look:
        """What `segmentor` finds in `images` (B, 3, H, W); it runs once."""
        order = sorted(range(len(text.class_indices)), key=text.class_indices.__getitem__)
        text = ClassText(text.embeddings[order], tuple(text.class_indices[place] for place in order), text.seen)
        size = (images.shape[-2], images.shape[-1])
        if hasattr(segmentor, "queries"):
            found = segmentor.queries(images, text)
            return cls(segmentor, text, size, queries=MaskQueries(found.class_logits, found.mask_logits))
        grid = segmentor.embed(images)
        if len(order) > grid.shape[1]:
            return cls(segmentor, text, size, grid=grid)
        return cls(segmentor, text, size, small=segmentor.classifier(grid, text.embeddings))

    def scores(self, classes: slice, *, most: int | None = None) -> Tensor:
        """Scores of some following classes (B, K, H, W), float32; most: of their synonyms' scores at once."""
        if self.queries is not None:
            return semantic_scores(self.queries.class_logits, self.queries.mask_logits, self.size, classes=classes)
        counts = [self.text.class_indices.count(index) for index in range(classes.start, classes.stop)]
        first = sum(index < classes.start for index in self.text.class_indices)
        rows = slice(first, first + sum(counts))
        if self.small is not None:
            small = self.small[:, rows]
        else:
            assert self.grid is not None
            small = self.segmentor.classifier(self.grid, self.text.embeddings[rows])
        like = torch.empty((1, *self.size), device="meta")
        limit = (most or MOST) // (len(small) * self.size[0] * self.size[1])
        return _largest(small, counts, limit, partial(resize, like=like)).float()


def _parts(counts: Sequence[int], most: int) -> Iterator[slice]:
    """Neighbours in `counts` whose sum is at most `most`; a larger one stays alone."""
    start, total = 0, 0
    for place, count in enumerate(counts):
        if place > start and total + count > most:
            yield slice(start, place)
            start, total = place, 0
        total += count
    yield slice(start, len(counts))


def _largest(small: Tensor, counts: Sequence[int], most: int, enlarged: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores of classes at full size from those of their synonyms, `counts` of each class, in `small`."""
    if len(counts) > 1 or counts[0] <= most:
        indices = [index for index, count in enumerate(counts) for _ in range(count)]
        return class_scores(enlarged(small), indices)
    parts = small.split(max(1, most), dim=1)
    best = enlarged(parts[0]).amax(1, keepdim=True)
    for part in parts[1:]:
        best = torch.maximum(best, enlarged(part).amax(1, keepdim=True))
    return best
