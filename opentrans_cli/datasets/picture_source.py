"""Where pictures come from: a folder, a file list, or tar shards; each can be read on its own, in any order."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import decode_image, decode_label_map, read_image
from opentrans_cli.datasets.listing import Say, files_under, list_images, unsaid, without_label_maps
from opentrans_cli.datasets.shards import COMPRESSED_SUFFIXES, SHARD_SUFFIX, expand_braces, index_shard
from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.errors import DataError, PictureError

IdDecoder = Callable[[Path | io.BytesIO, str], NDArray[np.int64]]
"""Reads the ids (H, W) of a label map, of which the name in messages is given as well."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, or a member of a tar shard with its place there."""

    path: Path
    member: str | None = None  # name within the shard `path`
    offset: int = 0  # of the member's first byte in the shard
    size: int = 0  # of the member in bytes
    label: Picture | None = None  # its label map, if it lies beside it in the shard
    decode: IdDecoder = decode_label_map  # of a label map: how its ids are read

    @property
    def name(self) -> str:
        """Its name in messages: "photos/a.jpg" or "shard-000.tar:0001.jpg"."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.path.stat().st_size if self.member is None else self.size

    def content(self) -> Path | io.BytesIO:
        """The file, or the bytes of the member. Raises DataError if the shard cannot be read."""
        if self.member is None:
            return self.path
        try:
            with self.path.open("rb") as shard:
                shard.seek(self.offset)
                data = shard.read(self.size)
        except OSError as error:
            raise PictureError(f"image cannot be read: {self.name} ({error.strerror}); check the shard") from error
        if len(data) < self.size:
            raise PictureError(f"image cannot be read: {self.name}; the shard was cut short after it was listed")
        return io.BytesIO(data)


def list_pictures(where: str | Path, *, say: Say = unsaid) -> tuple[Picture, ...]:
    """All pictures of `where`, in an order that depends on names (folder, shards) or lines (list) alone.

    What `where` is on disk decides, in this order:
    - a folder: its images, or its tar shards, with those of subfolders, by relative path; never both kinds;
    - a file NAME.tar: the pictures in it, in its order;
    - any other file: a list of image files, one a line, relative to the list's folder; a file named twice counts twice;
    - nothing, but the name has braces: the shards of that pattern, as in `shards/{000..012}.tar`.

    What is left out, and label maps beside the photos in shards, are said. Raises DataError where a picture, shard or
    list is missing or empty, or cannot be understood.
    """
    path = Path(where)
    if path.is_dir():
        return _of_folder(path, say)
    if is_shards(where):
        return _of_shards([path] if path.exists() else [Path(name) for name in expand_braces(str(where))], say)
    if path.exists():
        return _of_list(path)
    raise DataError(
        f"images not found: {where}; give a folder, a list of image files, a .tar, or shards such as {{000..012}}.tar"
    )


def read_picture(picture: Picture, *, shrink_to: int | None = None) -> NDArray[np.uint8]:
    """The pixels of a picture, uint8 (H, W, 3) RGB; see `read_image`. Raises DataError if it cannot be read."""
    content = picture.content()
    if isinstance(content, Path):
        return read_image(content, shrink_to=shrink_to)
    return decode_image(content.getvalue(), picture.name, shrink_to=shrink_to)


def read_ids(picture: Picture) -> NDArray[np.int64]:
    """The ids of a label map, int64 (H, W); see `read_label_map`. Raises DataError if it cannot be read."""
    return picture.decode(picture.content(), picture.name)


def is_shards(where: str | Path) -> bool:
    """Whether `where` names tar shards: one, a folder with some in it or below, or a pattern with braces and no file
    of that name.
    """
    if str(where).lower().endswith((SHARD_SUFFIX, *COMPRESSED_SUFFIXES)) and Path(where).is_file():
        return True
    if "{" in str(where):
        return not Path(where).exists()
    return Path(where).is_dir() and bool(files_under(Path(where), (SHARD_SUFFIX, *COMPRESSED_SUFFIXES)))


def _of_folder(folder: Path, say: Say) -> tuple[Picture, ...]:
    told: list[str] = []
    files = files_under(folder, (*IMAGE_SUFFIXES, SHARD_SUFFIX, *COMPRESSED_SUFFIXES), say=told.append)
    images = without_label_maps(folder, [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES], told.append)
    shards = [file for file in files if file.suffix.lower() not in IMAGE_SUFFIXES]
    if images and shards:
        raise DataError(f"folder holds both images and tar shards: {folder}, such as {shards[0].name}; move one kind")
    if not files:
        list_images(folder)  # says what is there
    for line in told:
        say(line)
    return _of_shards(shards, say) if shards else tuple(map(Picture, images))


def _of_shards(shards: list[Path], say: Say) -> tuple[Picture, ...]:
    for shard in shards:  # a missing one is reported before time is spent on the others
        if not shard.is_file():
            raise DataError(f"tar shard not found: {shard}; check the path and the numbers of the pattern")
        if not shard.name.lower().endswith((SHARD_SUFFIX, *COMPRESSED_SUFFIXES)):
            raise DataError(f"shard is no .tar: {shard}; give plain tar files")
    pictures: list[Picture] = []
    beside: Counter[str] = Counter()
    for shard in shards:
        for member in index_shard(shard, beside):
            label = None if member.label is None else Picture(shard, *member.label[:3])
            pictures.append(Picture(shard, *member[:3], label))
    for kind, count in sorted(beside.items()):
        say(f"no photos but label maps beside them in the shards: {count} named {kind}")
    return tuple(pictures)


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
