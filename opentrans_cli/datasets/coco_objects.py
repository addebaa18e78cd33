"""Objects in COCO's detection format: a JSON of true objects (`instances_*.json`), and a JSON list of found ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from opentrans_cli.datasets.coco_json import (
    Category,
    ImageId,
    ListedImage,
    annotations_of,
    categories_of,
    entries_of,
    image_id,
    images_of,
    read_coco,
    value,
)
from opentrans_cli.errors import DataError


class ListedObject(NamedTuple):
    """An object of an image, true or found."""

    image: ImageId
    category: int  # its id
    region: Any  # polygons, or run lengths as a list or as COCO's text
    area: float  # in pixels, as the file states it; 0 for a found object
    crowd: bool
    score: float  # 1 for a true object


class ObjectFile(NamedTuple):
    """A document of true objects."""

    images: Mapping[ImageId, ListedImage]  # each with its size
    categories: tuple[Category, ...]
    objects: tuple[ListedObject, ...]


def read_objects(path: Path) -> ObjectFile:
    """The true objects of a JSON such as `instances_val2017.json`. Raises DataError."""
    document = read_coco(path)
    images, categories = images_of(document, path), categories_of(document, path)
    known = {category.id for category in categories}
    if sizeless := next((image for image in images.values() if image.size is None), None):
        raise DataError(f"COCO file says no size of an image: {sizeless.file_name} in {path}; add height and width")
    objects = []
    for where, image, entry in annotations_of(document, path):
        _check_image(image, images, where)
        area = entry.get("area")
        if not isinstance(area, int | float):
            raise DataError(f"COCO file has no 'area': {where}; give one in COCO's format")
        kind, crowd = _category(entry, known, where), bool(entry.get("iscrowd", 0))
        objects.append(ListedObject(image, kind, _region(entry, images[image], where), float(area), crowd, 1.0))
    return ObjectFile(images, categories, tuple(objects))


def read_found_objects(
    path: Path, images: Mapping[ImageId, ListedImage], categories: tuple[Category, ...]
) -> tuple[tuple[ListedObject, ...], bool]:
    """The objects in a list of COCO's results, whose images and categories are given, and whether some have boxes.

    Raises DataError.
    """
    document = read_coco(path)
    if not isinstance(document, list):
        raise DataError(f"no list of found objects: {path}; give results in COCO's detection format")
    known, boxes = {category.id for category in categories}, False
    objects = []
    for number, entry in enumerate(entries_of({"results": document}, "results", path)):
        where = f"{path}, entry {number}"
        image, score = image_id(entry, "image_id", where), entry.get("score")
        _check_image(image, images, where)
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise DataError(f"object without a score: {where}; give a number")
        kind, boxes = _category(entry, known, where), boxes or bool(entry.get("bbox"))
        objects.append(ListedObject(image, kind, _region(entry, images[image], where), 0.0, False, float(score)))
    return tuple(objects), boxes


def _check_image(image: ImageId, images: Mapping[ImageId, ListedImage], where: str) -> None:
    if image not in images:
        raise DataError(f"object of an image that is not listed: {image} in {where}; give files that belong together")


def _category(entry: Mapping[str, Any], known: set[int], where: str) -> int:
    kind = value(entry, "category_id", int, where)
    if kind not in known:
        raise DataError(f"category id without a class: {kind} in {where}; list it among the categories")
    return kind


def _region(entry: Mapping[str, Any], image: ListedImage, where: str) -> Any:
    """The region of an object. Raises DataError for what is none, or has another size than its image."""
    if "segmentation" not in entry:
        raise DataError(f"object without a mask: {where}; boxes alone have no mask AP, give segmentations")
    region = entry["segmentation"]
    if isinstance(region, list):
        if not region or not all(isinstance(part, list) and len(part) >= 6 and not len(part) % 2 for part in region):
            raise DataError(f"object without a mask: {where}; a polygon is a list of x and y of three points or more")
        return region
    counts = region.get("counts") if isinstance(region, Mapping) else None
    if not isinstance(counts, str | list) or not counts:
        raise DataError(f"object without a mask: {where}; give polygons, or run lengths with 'size' and 'counts'")
    if region.get("size") != list(image.size or ()):
        raise DataError(
            f"mask and image differ in size: {where} has {region.get('size')} for {image.file_name} of "
            f"{list(image.size or ())} (height, width); give files that belong together"
        )
    if isinstance(counts, list) and sum(counts) != region["size"][0] * region["size"][1]:
        raise DataError(f"run lengths do not fill their image: {where}; write them again")
    return region
