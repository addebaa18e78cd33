"""Photos and label maps on disk, paired by name, and what the first bytes of each say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from opentrans_cli.datasets.folder import _stems_of
from opentrans_cli.datasets.images import _reading
from opentrans_cli.datasets.listing import list_images, list_label_maps

_ORIENTATION = 0x0112  # the tag of EXIF


class Header(NamedTuple):
    """Size and turn of a picture, as its file says before any pixel is decoded."""

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


def read_header(path: Path, kind: str) -> Header:
    """The header of a picture, "image" or "label map"; label maps are never turned.

    Raises DataError for what is missing, damaged or no picture.
    """
    with _reading(path, str(path), kind) as opened:
        # Pillow turns a TIFF by itself. It would read all of a PNG to find a turn behind the pixels, where none is.
        asked = kind == "image" and opened.format != "TIFF" and (opened.format != "PNG" or "exif" in opened.info)
        turn = opened.getexif().get(_ORIENTATION, 1) if asked else 1
        return Header(*opened.size, turn if turn in range(1, 9) else 1)


class Pair(NamedTuple):
    """A photo and its label map."""

    name: str  # of both: the relative path without suffix
    photo: Path
    label_map: Path


@dataclass(frozen=True)
class Pairing:
    """The files of two folders by name."""

    pairs: tuple[Pair, ...]
    photos_alone: tuple[Path, ...]  # without a label map
    label_maps_alone: tuple[Path, ...]  # without a photo
    same_names: tuple[Path, ...]  # files whose name another file of their folder has, before which they come


def pair_files(images: Path, labels: Path, *, split: Path | None = None) -> Pairing:
    """The photos in the folder `images` and the label maps in `labels`, sorted by name; with the list of names `split`,
    the photos in it, in its order, and what they have.

    Raises DataError for a folder that is missing or holds none, and for a name in the list without a photo.
    """
    photos, double_photos = _by_name(images, list_images(images))
    maps, double_maps = _by_name(labels, list_label_maps(labels))
    names = list(photos) if split is None else _stems_of(split, photos)
    return Pairing(
        tuple(Pair(name, photos[name], maps[name]) for name in names if name in maps),
        tuple(photos[name] for name in names if name not in maps),
        tuple(path for name, path in maps.items() if name not in photos) if split is None else (),
        (*double_photos, *double_maps),
    )


def _by_name(folder: Path, files: list[Path]) -> tuple[dict[str, Path], list[Path]]:
    """`files` by their path in `folder` without suffix, and those whose name an earlier one has."""
    found: dict[str, Path] = {}
    doubles = []
    for path in files:
        if found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path) is not path:
            doubles.append(path)
    return found, doubles
