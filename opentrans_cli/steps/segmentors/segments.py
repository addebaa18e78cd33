"""Instances and panoptic segments of a picture: their records for the report, and COCO's files of the segments.

A panoptic result of COCO is a colour PNG for each picture, in which a pixel of segment i has red i % 256, green
i // 256 % 256 and blue i // 65536 (0, black, is no segment), and one JSON that says what each segment is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.datasets.images import save_png
from opentrans_cli.errors import DataError, did_you_mean
from opentrans_cli.frameworks.mask_inference import Segment, instances, panoptic
from opentrans_cli.steps.segmentors.predictor import Queries

_LEAST_SURE = 0.05  # instances below this score are noise: every query would give some, of several classes
_OBJECT_THRESHOLD = 0.8  # for panoptic segments, as published for Mask2Former
_OBJECT_THRESHOLDS = {"fcclip": 0.0}  # its class scores are lower, since those of CLIP are mixed in


def object_masks(
    queries: Queries, shape: tuple[int, int], things: Sequence[bool]
) -> Iterator[tuple[int, float, NDArray[np.bool_]]]:
    """Class, score and mask (H, W) of each object in a picture of `shape` that has a pixel, highest score first.

    queries: those of the picture from `Predictor.queries`. things: by class, whether it consists of objects.
    """
    classes, masks, size = queries
    found = instances(classes, masks, size, picture=shape, things=things)
    for index, score, mask in zip(found.classes.tolist(), found.scores.tolist(), found.masks, strict=True):
        region = mask.numpy()
        if region.any():
            yield index, score, region


def find_instances(
    queries: Queries, image: NDArray[np.uint8], names: Sequence[str], things: Sequence[bool]
) -> list[dict[str, Any]]:
    """Class, score and mask of each object in `image` (H, W, 3), highest score first; masks are COCO run lengths."""
    shape = (image.shape[0], image.shape[1])
    return [
        {"class": names[index], "score": round(score, 6), "area": int(region.sum()), "mask": run_lengths(region)}
        for index, score, region in object_masks(queries, shape, things)
        if score >= _LEAST_SURE
    ]


def segment_map(
    queries: Queries, shape: tuple[int, int], things: Sequence[bool], *, framework: str
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """The ids of the panoptic segments of a picture of `shape`, (H, W), and what they are; each has a pixel.

    queries: those of the picture from `Predictor.queries` with `framework`.
    """
    classes, masks, size = queries
    threshold = _OBJECT_THRESHOLDS.get(framework, _OBJECT_THRESHOLD)
    found = panoptic(classes, masks, size, picture=shape, things=things, object_threshold=threshold)
    return found.ids.numpy(), found.segments


def find_segments(
    queries: Queries,
    image: NDArray[np.uint8],
    names: Sequence[str],
    things: Sequence[bool],
    path: Path,
    *,
    framework: str,
) -> list[dict[str, Any]]:
    """Panoptic segments of `image` (H, W, 3); their ids go into a PNG of COCO's at `path`."""
    ids, segments = segment_map(queries, (image.shape[0], image.shape[1]), things, framework=framework)
    write_segment_ids(path, ids)
    return [
        {"id": part.id, "class": names[part.class_index], "thing": part.thing, **segment_facts(ids, part.id)}
        for part in segments
    ]


def segment_facts(ids: NDArray[np.integer], number: int) -> dict[str, Any]:
    """Area and box of the segment with the id `number`; boxes are x, y, width and height in pixels."""
    region = ids == number
    return {"area": int(region.sum()), "bbox": _box(region)}


def write_segment_ids(path: Path | IO[bytes], ids: NDArray[np.integer]) -> None:
    """Write the ids (H, W) of segments, below 2 ** 24, as COCO's PNG, to a path or an open file."""
    channels = [ids >> shift & 255 for shift in (0, 8, 16)]
    save_png(path, Image.fromarray(np.stack(channels, -1).astype(np.uint8)))


def coco_panoptic(
    entries: Sequence[Mapping[str, Any]],
    sizes: Sequence[tuple[int, int]],
    files: Sequence[str],
    vocabulary: Sequence[tuple[str, bool, Sequence[int]]],
) -> dict[str, Any]:
    """COCO's JSON about the segments of all pictures, which panopticapi reads.

    entries: those of the report. sizes: height and width, and files: name of each picture. vocabulary: name of each
    class, whether it consists of objects, and its colour; its id is its place, as in label maps. The id of a picture is
    its name if all names are numbers, as those of COCO are, else its place.
    """
    names = [str(entry["name"]) for entry in entries]
    numbers = [int(name) for name in names if name.isdecimal()]
    ids = numbers if len(set(numbers)) == len(names) else list(range(len(names)))
    classes = {name: number for number, (name, _, _) in enumerate(vocabulary)}
    return {
        "images": [
            {"id": number, "file_name": file, "height": height, "width": width}
            for number, file, (height, width) in zip(ids, files, sizes, strict=True)
        ],
        "annotations": [
            {
                "image_id": number,
                "file_name": entry["panoptic"],
                "segments_info": [
                    {
                        "id": part["id"],
                        "category_id": classes[part["class"]],
                        "area": part["area"],
                        "bbox": part["bbox"],
                        "iscrowd": 0,
                    }
                    for part in entry["segments"]
                ],
            }
            for number, entry in zip(ids, entries, strict=True)
        ],
        "categories": [
            {"id": number, "name": name, "isthing": int(thing), "color": [int(value) for value in colour]}
            for number, (name, thing, colour) in enumerate(vocabulary)
        ],
    }


def _box(region: NDArray[np.bool_]) -> list[int]:
    (rows,), (columns,) = np.nonzero(region.any(1)), np.nonzero(region.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1]


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
