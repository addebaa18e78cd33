"""Photos and label maps paired by name, and whether the two of a pair fit, as their first bytes say."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import ORIENTATION, open_picture, turned_as
from opentrans_cli.datasets.listing import list_images, list_label_maps
from opentrans_cli.datasets.matlab import MATLAB_SUFFIX, matlab_shape
from opentrans_cli.datasets.options import SMALLEST_SIZE
from opentrans_cli.datasets.picture_source import Picture, list_pictures, read_ids, read_picture
from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.errors import DataError, PictureError


class Pair(NamedTuple):
    """A photo and its label map."""

    name: str  # of both: the relative path without suffix, or without the end that the user named
    photo: Picture
    label_map: Picture


@dataclass(frozen=True)
class Pairing:
    """The pictures of two folders by name, or of tar shards with label maps beside the photos."""

    pairs: tuple[Pair, ...]
    photos_alone: Mapping[str, Picture]  # by name, those without a label map
    label_maps_alone: Mapping[str, Picture]  # by name, those without a photo; empty with a split list
    same_names: tuple[tuple[str, Picture, Picture], ...]  # "images" or "label maps", and two of them with one name
    remarks: tuple[str, ...]  # what was left out, a line each

    def refuse_faults(self, images: Path, labels: Path | None, *, suffixes: bool) -> None:
        """Raises DataError for the first picture that is no half of a pair; suffixes: ends of names are given."""
        for kind, first, second in self.same_names[:1]:
            move = "keep one" if suffixes else "keep one, or choose a kind with --image-suffix, --label-suffix"
            raise DataError(f"two {kind} with one stem: {first.name} and {second.name}; {move}")
        for alone, what, where in (
            (self.photos_alone, "images have no label map", labels or images),
            (self.label_maps_alone, "label maps have no image", images),
        ):
            if alone:
                first_name = min(alone)
                raise DataError(
                    f"{len(alone)} {what}: first '{first_name}'; add it to {where}, or choose with --split-list"
                )


def pair_pictures(
    images: Path,
    labels: Path | None,
    *,
    image_suffix: str | None = None,
    label_suffix: str | None = None,
    split: Path | None = None,
) -> Pairing:
    """The photos of `images` and the label maps of `labels`, sorted by name.

    labels: None if `images` are tar shards with a label map beside each photo. image_suffix, label_suffix: the ends of
    names, such as "_leftImg8bit.png"; None: any suffix. split: a list of names; its photos, in its order, then count
    alone. Raises DataError if there are no photos or label maps, and for a name in the list without a photo.
    """
    said: list[str] = []
    doubles: list[tuple[str, Picture, Picture]] = []

    def by_name(found: Iterable[Picture], folder: Path | None, kind: str, suffix: str | None) -> dict[str, Picture]:
        named: dict[str, Picture] = {}
        for picture in found:
            member = Path(picture.path.stem if several else "", picture.member or "")
            path = picture.path.relative_to(folder) if folder is not None else member
            first = named.setdefault(pair_name(path, suffix), picture)
            if first is not picture:
                doubles.append((kind, first, picture))
        return named

    several = False  # shards, which may number their samples alike
    if labels is None:
        found = list_pictures(images, say=said.append)
        several = len({picture.path for picture in found}) > 1
        photos = by_name(found, None, "images", None)
        maps = {name: photo.label for name, photo in photos.items() if photo.label is not None}
    else:
        listed = list_images(images, suffix=image_suffix, say=said.append)
        photos = by_name(map(Picture, listed), images, "images", image_suffix)
        listed = list_label_maps(labels, suffix=label_suffix, say=said.append)
        maps = by_name(map(Picture, listed), labels, "label maps", label_suffix)
    names = list(photos) if split is None else names_in(split, photos, image_suffix)
    return Pairing(
        tuple(Pair(name, photos[name], maps[name]) for name in names if name in maps),
        {name: photos[name] for name in names if name not in maps},
        {name: label_map for name, label_map in maps.items() if name not in photos} if split is None else {},
        tuple(doubles),
        tuple(said),
    )


def pair_name(path: Path, suffix: str | None) -> str:
    """The name of a pair, from the relative path of one of its pictures without its suffix, or without this end."""
    name = path.with_suffix("").as_posix() if suffix is None else path.as_posix()[: -len(suffix)]
    return unicodedata.normalize("NFC", name)  # a Mac writes letters with accents in two parts


def names_in(split: Path, pictures: Mapping[str, object], suffix: str | None, *, option: str = "--images") -> list[str]:
    """The names a split list has, in its order, with or without `suffix`; each must be an image and occur once.

    option: what the user gave to say where the pictures are.
    """
    names: dict[str, int] = {}
    unknown: list[str] = []
    for number, entry in read_entries(split, "split list"):
        bare = entry[: -len(Path(entry).suffix)] if Path(entry).suffix.lower() in IMAGE_SUFFIXES else entry
        if suffix is not None and entry.lower().endswith(suffix.lower()):
            bare = entry[: -len(suffix)]
        name = entry if entry in pictures else unicodedata.normalize("NFC", bare.removeprefix("./"))
        if name in names:
            raise DataError(f"'{name}' occurs twice: {split}, lines {names[name]} and {number}; keep one")
        names[name] = number
        if name not in pictures:
            unknown.append(f"'{entry}' in line {number}")
    if unknown:
        first, count = unknown[0], len(unknown)
        what = "an image" if option == "--images" else "a label map"
        raise DataError(f"{count} entries without {what}: {split}, first {first}; correct the list or {option}")
    return list(names)


class Header(NamedTuple):
    """What a picture's file says before any pixel is decoded."""

    width: int  # stored, in pixels, as is the next
    height: int
    orientation: int = 1  # by EXIF, 1 to 8; 1 = stored upright

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) in the file."""
        return self.width, self.height

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) of the picture as it is meant to be seen, and as `read_image` gives it."""
        return (self.height, self.width) if self.orientation >= 5 else self.stored

    def holds(self, label_map: Header) -> bool:
        """Whether a label map has the size of this photo, upright or stored; a stored one is turned with the photo."""
        return label_map.stored in (self.upright, self.stored)


def read_header(picture: Picture, kind: str, *, whole: bool = False) -> Header:
    """The header of an "image" or a "label map", which is never turned; whole: also what a PNG says behind its pixels.

    Raises PictureError for what is no picture.
    """
    if picture.path.suffix.lower() == MATLAB_SUFFIX:
        height, width = matlab_shape(picture.content(), picture.name)
        return Header(width, height)
    with open_picture(picture.content(), picture.name, kind) as opened:
        # Pillow turns a TIFF by itself, and would decode a PNG that says nothing before its pixels.
        quick = opened.format != "PNG" or "exif" in opened.info or whole
        asked = kind == "image" and opened.format != "TIFF" and quick
        turn = opened.getexif().get(ORIENTATION, 1) if asked else 1
        return Header(*opened.size, turn if turn in range(1, 9) else 1)


def misfit(pair: Pair, photo: Header, label_map: Header) -> PictureError | None:
    """What keeps two pictures that can be read from being used: a photo too small to see anything, or another size."""
    (width, height), (map_width, map_height) = photo.upright, label_map.stored
    if min(width, height) < SMALLEST_SIZE:
        return PictureError(
            f"image is smaller than {SMALLEST_SIZE} pixels: {pair.photo.name} ({width} x {height}); enlarge it"
        )
    if photo.holds(label_map):
        return None
    return PictureError(
        f"image is {width}x{height} but its label map {map_width}x{map_height}: {pair.label_map.name}; "
        "resize the label map (nearest)"
    )


def read_pair(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The photo, uint8 (H, W, 3) RGB, and the ids of its label map, int64 (H, W), both upright.

    A label map with the size of the stored photo was drawn on that, and is turned with it. Raises PictureError for a
    damaged file, and for what `misfit` says.
    """
    image, label_map = read_picture(pair.photo), read_ids(pair.label_map)
    if image.shape[:2] != label_map.shape:
        turned = turned_as(pair.photo.content(), pair.photo.name, label_map)
        label_map = label_map if turned is None else turned
    if (error := misfit(pair, Header(*image.shape[1::-1]), Header(*label_map.shape[::-1]))) is not None:
        raise error
    return image, label_map
