"""Where pictures come from: a folder, a file list, or tar shards; each can be read on its own, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import IMAGE_SUFFIXES, decode_image, files_under, list_images, read_image
from opentrans_cli.datasets.shards import COMPRESSED_SUFFIXES, SHARD_SUFFIX, expand_braces, index_shard
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.errors import DataError


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, or a member of a tar shard with its place there."""

    path: Path
    member: str | None = None  # name within the shard `path`
    offset: int = 0  # of the member's first byte in the shard
    size: int = 0  # of the member in bytes

    @property
    def name(self) -> str:
        """Its name in messages: "photos/a.jpg" or "shard-000.tar:0001.jpg"."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"


def list_pictures(where: str | Path) -> tuple[Picture, ...]:
    """All pictures of `where`, in an order that depends on names (folder, shards) or lines (list) alone.

    What `where` is on disk decides, in this order:
    - a folder: its images, or its tar shards, with those of subfolders, by relative path; never both kinds;
    - a file NAME.tar: the pictures in it, in its order;
    - any other file: a list of image files, one a line, relative to the list's folder; a file named twice counts twice;
    - nothing, but the name has braces: the shards of that pattern, as in `shards/{000..012}.tar`.

    Raises DataError where a picture, shard or list is missing or empty, or cannot be understood.
    """
    path = Path(where)
    if path.is_dir():
        return _of_folder(path)
    if path.exists():
        lowered = path.name.lower()
        return _of_shards([path]) if lowered.endswith((SHARD_SUFFIX, *COMPRESSED_SUFFIXES)) else _of_list(path)
    if "{" in str(where):
        return _of_shards([Path(name) for name in expand_braces(str(where))])
    raise DataError(
        f"images not found: {where}; give a folder, a list of image files, a .tar, or shards such as {{000..012}}.tar"
    )


def read_picture(picture: Picture, *, shrink_to: int | None = None) -> NDArray[np.uint8]:
    """The pixels of a picture, uint8 (H, W, 3) RGB; see `read_image`. Raises DataError if it cannot be read."""
    if picture.member is None:
        return read_image(picture.path, shrink_to=shrink_to)
    try:
        with picture.path.open("rb") as shard:
            shard.seek(picture.offset)
            data = shard.read(picture.size)
    except OSError as error:
        raise DataError(f"image cannot be read: {picture.name} ({error.strerror}); check the shard") from error
    if len(data) < picture.size:
        raise DataError(f"image cannot be read: {picture.name}; the shard was cut short after it was listed")
    return decode_image(data, picture.name, shrink_to=shrink_to)


def _of_folder(folder: Path) -> tuple[Picture, ...]:
    files = files_under(folder, (*IMAGE_SUFFIXES, SHARD_SUFFIX, *COMPRESSED_SUFFIXES))
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    shards = [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    if images and shards:
        raise DataError(f"folder holds both images and tar shards: {folder}, such as {shards[0].name}; move one kind")
    if shards:
        return _of_shards(shards)
    return tuple(Picture(path) for path in images or list_images(folder))


def _of_shards(shards: list[Path]) -> tuple[Picture, ...]:
    for shard in shards:  # a missing one is reported before time is spent on the others
        if not shard.is_file():
            raise DataError(f"tar shard not found: {shard}; check the path and the numbers of the pattern")
        if not shard.name.lower().endswith((SHARD_SUFFIX, *COMPRESSED_SUFFIXES)):
            raise DataError(f"shard is no .tar: {shard}; give plain tar files")
    return tuple(Picture(shard, *member) for shard in shards for member in index_shard(shard))


def _of_list(path: Path) -> tuple[Picture, ...]:
    pictures = []
    for number, entry in read_entries(path, "image list"):
        file = path.parent / entry
        if not file.is_file():
            raise DataError(f"image not found: '{entry}' in line {number} of {path}; correct the list")
        if file.name.lower().endswith((SHARD_SUFFIX, *COMPRESSED_SUFFIXES)):
            raise DataError(
                f"a list names images, no tar shards: '{entry}' in line {number} of {path}; give the shards"
            )
        pictures.append(Picture(file))
    return tuple(pictures)
