"""Mask AP as COCO defines it (Lin et al. 2014), computed by faster-coco-eval, whose figures are those of pycocotools.

Only the forms are made here. Regions are in any of COCO's forms: polygons, or run lengths as a list or as its text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import OptionError

SUMMARY: Mapping[str, str] = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
}
"""The means and how tables call them, in the order of COCO's summary: over IoUs of 0.5 to 0.95, at 0.5, at 0.75, and of
objects below 32 x 32 pixels, below 96 x 96, and above."""


class TrueObject(NamedTuple):
    """An object in an image."""

    image: int
    class_index: int
    region: Any  # in one of COCO's forms
    area: float  # in pixels, as the data set states it
    crowd: bool  # several objects that nobody told apart: no prediction inside it is wrong


class FoundObject(NamedTuple):
    """A predicted object in an image."""

    image: int
    class_index: int
    region: Any  # run lengths of COCO
    score: float


@dataclass(frozen=True)
class MaskPrecision:
    """Fractions in [0, 1]; None where there is no true object."""

    means: Mapping[str, float | None]  # by name, those of SUMMARY
    per_class: tuple[float | None, ...]  # AP of each class


def mask_ap(
    sizes: Mapping[int, tuple[int, int]], truth: Iterable[TrueObject], found: Iterable[FoundObject], classes: int
) -> MaskPrecision:
    """AP of predicted objects; at most the best 100 of a class in an image count.

    sizes: height and width of each image, by its number. The area of a predicted object is that of its region.
    """
    library = coco_library()
    # Both libraries take an id of 0 for no match, so numbers begin with 1.
    document = {
        "images": [{"id": number + 1, "height": size[0], "width": size[1]} for number, size in sizes.items()],
        "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
        "annotations": [
            {
                "id": number,
                "image_id": each.image + 1,
                "category_id": each.class_index + 1,
                "segmentation": each.region,
                "area": each.area,
                "iscrowd": int(each.crowd),
                "bbox": [0, 0, 0, 0],  # nothing looks at it, but it must be there
            }
            for number, each in enumerate(truth, start=1)
        ],
    }
    results = [
        {
            "image_id": each.image + 1,
            "category_id": each.class_index + 1,
            "segmentation": packed_region(each.region),
            "score": each.score,
        }
        for each in found
    ]
    known = library.COCO(document)
    judged = library.COCOeval_faster(known, known.loadRes(results), iouType="segm", print_function=_unprinted)
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    precision = judged.eval["precision"][:, :, :, 0, -1]  # (IoUs, recalls, classes): all sizes, most detections
    means = {name: _found(value) for name, value in zip(SUMMARY, judged.stats[: len(SUMMARY)], strict=True)}
    return MaskPrecision(means, tuple(_mean_of(precision[:, :, index]) for index in range(classes)))


def packed_region(region: Any) -> Any:
    """Run lengths as COCO's text, from the text, a list of numbers, or a bool array (H, W)."""
    masks = coco_library().mask
    if isinstance(region, np.ndarray):
        region = masks.encode(np.asfortranarray(region, dtype=np.uint8))
    elif isinstance(region["counts"], list):
        region = masks.frPyObjects(region, *region["size"])
    counts = region["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in region["size"]], "counts": text}


def coco_library() -> Any:
    """The module of faster-coco-eval. Raises OptionError if it is not installed."""
    try:
        import faster_coco_eval
    except ImportError:
        raise OptionError(
            "mask AP needs faster-coco-eval, which is not installed; pip install 'opentrans-cli[coco]'"
        ) from None
    return faster_coco_eval


def _unprinted(*_: object) -> None:
    """Takes what the library would print."""


def _found(value: float) -> float | None:
    return None if value < 0 else float(value)  # -1 stands for none


def _mean_of(precision: NDArray[np.float64]) -> float | None:
    there = precision[precision > -1]
    return float(there.mean()) if there.size else None
