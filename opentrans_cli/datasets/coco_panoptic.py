"""Panoptic segments in COCO's format: one JSON that says what each segment is, and a PNG of ids for each image.

A pixel of a segment has its id as a colour: red + 256 green + 65536 blue; black, 0, is no segment. The PNGs are in the
folder that has the name of the JSON without its suffix, as COCO's are, else beside the JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.base import PanopticTruth, TrueSegment
from opentrans_cli.datasets.coco_json import (
    Category,
    ImageId,
    ListedImage,
    annotations_of,
    categories_of,
    entries_of,
    images_of,
    read_coco,
    value,
)
from opentrans_cli.datasets.images import open_picture
from opentrans_cli.errors import DataError, PictureError

NO_OBJECT = 0
"""The id of pixels without a segment."""

LARGEST_SEGMENT = (1 << 24) - 1


class _Listed(NamedTuple):
    """The segments of one image, as the JSON lists them."""

    png: str
    ids: NDArray[np.int32]  # (S,)
    categories: NDArray[np.int64]  # (S,), ids
    crowds: NDArray[np.bool_]  # (S,)


class PanopticFile:
    """A panoptic JSON of COCO's and the PNGs that belong to it; a PNG is read when it is asked for.

    Both truth and predictions have this form; predictions may lack images, categories and crowds.
    """

    def __init__(self, path: Path, *, folder: Path | None = None) -> None:
        """folder: where the PNGs are, if not in one of the usual places. Raises DataError for a wrong JSON."""
        document = read_coco(path)
        self.path = path
        self.folder = folder or _folder_of(path)
        self.categories: tuple[Category, ...] = categories_of(document, path) if "categories" in document else ()
        self.images: dict[ImageId, ListedImage] = images_of(document, path) if "images" in document else {}
        self._listed: dict[ImageId, _Listed] = {}
        for where, image, entry in annotations_of(document, path):
            if image in self._listed:
                raise DataError(f"two annotations of the image {image}: {where}; keep one")
            self._listed[image] = _listed(entry, where)

    @property
    def image_ids(self) -> tuple[ImageId, ...]:
        """The images with segments, in the order of the annotations."""
        return tuple(self._listed)

    def png(self, image: ImageId) -> Path:
        """The file with the ids of an image."""
        return self.folder / self._listed[image].png

    def segments(self, image: ImageId, class_of: Mapping[int, int]) -> tuple[TrueSegment, ...]:
        """What the segments of an image are; class_of: category id -> class. Raises DataError for another category."""
        listed = self._listed[image]
        if foreign := sorted({*listed.categories.tolist()} - class_of.keys()):
            raise DataError(
                f"category id without a class: {foreign[0]} for image {image} in {self.path}; list it among the "
                "categories"
            )
        columns = (column.tolist() for column in (listed.ids, listed.categories, listed.crowds))
        return tuple(TrueSegment(number, class_of[kind], crowd) for number, kind, crowd in zip(*columns, strict=True))

    def check(self, images: Iterable[ImageId], class_of: Mapping[int, int]) -> None:
        """Look at the segments in the JSON, and whether the PNGs are there, of all these images before one is read.

        Raises DataError for a PNG that is missing or a category without a class.
        """
        images = list(images)
        for image in images:
            self.segments(image, class_of)
        check_there("panoptic PNG", [self.png(image) for image in images], self.folder, self.path)

    def read(self, image: ImageId, class_of: Mapping[int, int]) -> PanopticTruth:
        """The segments of an image with their pixels; class_of: category id -> class.

        Raises PictureError for a PNG that is missing, damaged, of another size than the JSON says, or that has other
        segments than the JSON, and DataError for a category without a class.
        """
        segments, path = self.segments(image, class_of), self.png(image)
        ids = read_segment_ids(path)
        listed = self.images.get(image)
        if listed is not None and listed.size not in (None, ids.shape):
            assert listed.size is not None
            raise PictureError(
                f"panoptic PNG is {ids.shape[1]} x {ids.shape[0]}, but its JSON says {listed.size[1]} x "
                f"{listed.size[0]}: {path} ({self.path}); give those that belong together"
            )
        there = {*runs(ids)[0].tolist()} - {NO_OBJECT}
        known = {segment.id for segment in segments}
        for found, which in ((there - known, "only in the PNG"), (known - there, "only in the JSON")):
            if found:
                raise PictureError(
                    f"panoptic PNG and JSON do not fit, segment {min(found)} is {which}: {path} ({self.path}); "
                    "give those that belong together"
                )
        return PanopticTruth(ids, segments)


def check_there(kind: str, paths: Sequence[Path], folder: Path, listed: Path) -> None:
    """Raises DataError if a file in `folder` is missing that the JSON `listed` names; kind: what it is, in messages."""
    if lost := [path for path in paths if not path.is_file()]:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise DataError(f"{kind} that {listed} lists is not there: {lost[0]}{more}; add it to {folder}")


def _folder_of(path: Path) -> Path:
    inside = path.with_suffix("")
    return inside if inside.is_dir() else path.parent


def _listed(entry: Mapping[str, Any], where: str) -> _Listed:
    parts = entries_of(entry, "segments_info", Path(where))
    ids = [value(part, "id", int, where) for part in parts]
    if wrong := [number for number in ids if not NO_OBJECT < number <= LARGEST_SEGMENT]:
        raise DataError(f"segment id out of range: {wrong[0]} in {where}; ids are 1 to {LARGEST_SEGMENT}")
    if len({*ids}) < len(ids):
        twice = next(number for place, number in enumerate(ids) if number in ids[:place])
        raise DataError(f"segment id occurs twice: {twice} in {where}; keep one")
    return _Listed(
        value(entry, "file_name", str, where),
        np.array(ids, np.int32),
        np.array([value(part, "category_id", int, where) for part in parts], np.int64),
        np.array([bool(part.get("iscrowd", 0)) for part in parts], np.bool_),
    )


def read_segment_ids(path: Path) -> NDArray[np.int32]:
    """The ids in a panoptic PNG, int32 (H, W). Raises PictureError for a file that holds none."""
    with open_picture(path, str(path), "panoptic PNG") as opened:
        if opened.mode != "RGB":
            raise PictureError(
                f"panoptic PNG has no colours, so no segment ids: {path} ({opened.mode}); save the ids as red + 256 "
                "green + 65536 blue"
            )
        # Four bytes a pixel, the last of them without meaning, are the ids already; that takes half the time.
        pixels = np.frombuffer(opened.tobytes("raw", "RGBX"), "<u4").reshape(opened.height, opened.width)
    return (pixels & LARGEST_SEGMENT).astype(np.int32)


def runs(ids: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """The value and the length of each run of equal values, row after row: few, where the values form regions."""
    flat = ids.ravel()
    ends = np.flatnonzero(np.append(flat[1:] != flat[:-1], True))
    return flat[ends], np.diff(ends, prepend=-1)


def class_map(truth: PanopticTruth, ignore_index: int) -> NDArray[np.int64]:
    """The class of every pixel, int64 (H, W); `ignore_index` where there is no segment."""
    values, lengths = runs(truth.ids)
    known = np.array([NO_OBJECT, *(segment.id for segment in truth.segments)])
    classes = np.array([ignore_index, *(segment.class_index for segment in truth.segments)])
    order = np.argsort(known)
    found = classes[order][np.searchsorted(known[order], values)]
    return np.repeat(found, lengths).reshape(truth.ids.shape)
