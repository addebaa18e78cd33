"""ADE20K as its owners give it away: masks with the number of one of about 3,700 objects in two colours.

The data set with 847 classes takes those that occur in both splits; their numbers and names stand in the class list
`ade20k-full`, in the order of the classes. A JSON file beside each mask names the objects in it by number, so that the
numbers are checked with every download.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.assets import class_list_file
from opentrans_cli.datasets.benchmarks.raw import RawDownload, RawPicture
from opentrans_cli.datasets.class_file import LARGEST_ID
from opentrans_cli.datasets.images import open_picture
from opentrans_cli.datasets.listing import files_under
from opentrans_cli.datasets.options import Split
from opentrans_cli.errors import DataError, PictureError

FULL_HOMES = ("ADE20K_2021_17_01", "ade/ADE20K_2021_17_01")
"""Folders under the root; FC-CLIP's converter reads the second and registers the first."""

FULL_PHOTOS = "images/ADE"

_NUMBERS = 26 * 256
"""More than a mask can hold: R // 10 is at most 25."""


@cache
def object_names() -> dict[int, str]:
    """Number of an object -> its name, in the order of the 847 classes."""
    lines = class_list_file("ade20k-full").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if not line.startswith("#"))
    return {int(number): name for number, name in pairs}


def object_numbers(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The number of the object of each pixel, int64 (H, W), 0 = none, of a mask, uint8 (H, W, 3) RGB.

    R holds ten times the number's multiple of 256, and in its last digit nothing of the class; G holds the rest.
    """
    return mask[..., 0].astype(np.int64) // 10 * 256 + mask[..., 1]


def class_indices(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of objects -> indices of the 847 classes; 65535 for objects that are none of them, and for none."""
    return _table()[numbers]


@cache
def _table() -> NDArray[np.int64]:
    table = np.full(_NUMBERS, LARGEST_ID, np.int64)
    table[list(object_names())] = np.arange(len(object_names()))
    return table


def read_object_numbers(path: Path) -> NDArray[np.int64]:
    """The numbers of the objects in the mask `path`. Raises PictureError."""
    with open_picture(path, str(path), "mask") as opened:
        if opened.mode != "RGB":
            raise PictureError(f"mask has no colours: {path} ({opened.mode}); take *_seg.png of the download")
        return object_numbers(np.asarray(opened))


def check_object_names(path: Path) -> None:
    """Compare the names of the objects in the JSON file `path` with those of the class list.

    Raises DataError where a number stands for another object than here, so that no wrong class is written, and
    PictureError for a damaged file.
    """
    try:
        # Names are plain ASCII; what is free text is not always UTF-8.
        found = json.loads(path.read_bytes().decode("latin-1"))["annotation"]["object"]
        named = {each["name_ndx"]: each["name"] for each in (found if isinstance(found, list) else [found])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PictureError(f"description of a mask cannot be read: {path}; download it again") from error
    names = object_names()
    for number, name in named.items():
        if names.get(number, name) != name:
            raise DataError(
                f"object {number} is '{name}', not '{names[number]}': {path}; take the release ADE20K_2021_17_01"
            )


def full_pictures(root: Path, split: Split) -> RawDownload | None:
    """The photos of a split as they are published, with the classes of their masks; None if they are not there.

    Raises DataError for a photo without a mask, and for two of one name.
    """
    inside = f"{FULL_PHOTOS}/{'training' if split == 'train' else 'validation'}"
    home = next((root / home for home in FULL_HOMES if (root / home / inside).is_dir()), None)
    if home is None:
        return None
    folder = home / inside
    pictures: dict[str, RawPicture] = {}
    for photo in files_under(folder, (".jpg",)):
        mask = photo.with_name(f"{photo.stem}_seg.png")
        if not mask.is_file():
            raise DataError(f"photo has no mask: {photo}; unpack the download again, with {mask.name}")
        if (first := pictures.get(photo.stem)) is not None:
            raise DataError(f"two photos of one name: {first.photo} and {photo}; keep one")
        pictures[photo.stem] = RawPicture(photo.stem, photo, str(mask), partial(_read_classes, mask))
    if not pictures:
        raise DataError(f"no photos of ADE20K in folder: {folder}; unpack the download again")
    return RawDownload(
        "masks of ADE20K_2021_17_01, as downloaded", home, tuple(pictures[name] for name in sorted(pictures))
    )


def _read_classes(mask: Path) -> NDArray[np.int64]:
    description = mask.with_name(f"{mask.name.removesuffix('_seg.png')}.json")
    if description.is_file():
        check_object_names(description)
    return class_indices(read_object_numbers(mask))
