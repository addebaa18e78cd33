"""Scores of all classes at all pixels, some classes at a time, so that memory does not grow with their product.

847 classes on a photo of 12 megapixels have 10 thousand million scores, 40 GB. Enlarging to pixels treats every class
on its own, so a few at a time give the same values. Shapes: B images, S texts, C classes, K of them, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
