"""Instances and panoptic segments of a picture: their records for the report, and the map of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opentrans_cli.datasets.images import resize_label_map, write_label_map
from opentrans_cli.errors import DataError, did_you_mean
from opentrans_cli.frameworks.mask_inference import instances, panoptic
from opentrans_cli.steps.segmentors.predictor import Queries

_LEAST_SURE = 0.05  # instances below this score are noise: every query would give some, of several classes
_OBJECT_THRESHOLD = 0.8  # for panoptic segments, as published for Mask2Former
_OBJECT_THRESHOLDS = {"fcclip": 0.0}  # its class scores are lower, since those of CLIP are mixed in
_DEEP = np.zeros((257, 3), dtype=np.uint8)  # a palette has too few colours, so ids are written with 16 bits


def find_instances(
    queries: Queries, image: NDArray[np.uint8], names: Sequence[str], things: Sequence[bool]
) -> list[dict[str, Any]]:
    """Class, score and mask of each object in `image` (H, W, 3), highest score first; masks are COCO run lengths.

    queries: those of the image from `Predictor.queries`.
    """
    classes, masks, size = queries
    found = instances(classes, masks, size, things=things)
    entries = []
    for index, score, mask in zip(found.classes.tolist(), found.scores.tolist(), found.masks, strict=True):
        region = resize_label_map(mask.numpy().astype(np.int64), (image.shape[0], image.shape[1])) > 0
        if score >= _LEAST_SURE and region.any():
            entries.append(
                {
                    "class": names[index],
                    "score": round(score, 6),
                    "area": int(region.sum()),
                    "mask": run_lengths(region),
                }
            )
    return entries


def find_segments(
    queries: Queries,
    image: NDArray[np.uint8],
    names: Sequence[str],
    things: Sequence[bool],
    path: Path,
    *,
    framework: str,
) -> list[dict[str, Any]]:
    """Panoptic segments of `image` (H, W, 3); their ids go into a 16-bit PNG at `path`, 0 for no segment.

    queries: those of the image from `Predictor.queries` with `framework`.
    """
    classes, masks, size = queries
    threshold = _OBJECT_THRESHOLDS.get(framework, _OBJECT_THRESHOLD)
    found = panoptic(classes, masks, size, things=things, object_threshold=threshold)
    ids = resize_label_map(found.ids.to(torch.int64).numpy(), (image.shape[0], image.shape[1]))
    write_label_map(path, ids, _DEEP)
    areas = np.bincount(ids.ravel(), minlength=len(found.segments) + 1)
    return [
        {"id": part.id, "class": names[part.class_index], "thing": part.thing, "area": int(areas[part.id])}
        for part in found.segments
    ]


def things_of(names: Sequence[str], stuff: Sequence[str]) -> tuple[bool, ...]:
    """By class, whether it consists of objects; `stuff` names those that do not. Raises DataError for other words."""
    unknown = sorted({word.casefold() for word in stuff} - {name.casefold() for name in names})
    if unknown:
        raise DataError(
            f"not a class of the vocabulary: --stuff {unknown[0]}; use the words you ask for"
            f"{did_you_mean(unknown[0], names)}"
        )
    known = {word.casefold() for word in stuff}
    return tuple(name.casefold() not in known for name in names)


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A region (H, W) in COCO's uncompressed form: by column, alternating lengths of zeros and ones, zeros first."""
    flat = mask.ravel(order="F").astype(np.int8)
    ends = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], ends, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": [int(side) for side in mask.shape], "counts": [0, *counts] if flat[0] else counts}
