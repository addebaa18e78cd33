"""The pictures that `segment` is given: where they are, what their outputs are called, and which are damaged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.datasets.images import look_at
from opentrans_cli.datasets.listing import files_under, list_images
from opentrans_cli.datasets.pairs import read_header
from opentrans_cli.datasets.picture_source import Picture, is_shards, list_pictures
from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES
from opentrans_cli.errors import DataError, PictureError, without_move
from opentrans_cli.files.near import near_path
from opentrans_cli.reporter import SILENT, Reporter

SHOWN = 3
"""So many damaged pictures are named in an error; the rest is counted."""

_WORTH_A_BAR = 1000
"""So many pictures take a second or more to look at."""

_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ListedPath(os.PathLike[str]):
    """A path from a list, and its place there, for messages."""

    path: Path
    where: str  # "line 3 of stdin"

    def __fspath__(self) -> str:
        return str(self.path)


def listed_paths(content: bytes, name: str) -> list[ListedPath]:
    """The paths in a list, `name` in messages: one a line, or with NUL characters between them as `find -print0` does.

    They are relative to the working directory; empty lines are left out. Raises DataError, with the number of the line,
    for a path where nothing is, and for an empty list.
    """
    separator, unit = (b"\0", "entry") if b"\0" in content else (b"\n", "line")
    found = []
    for number, entry in enumerate(content.removeprefix(_UTF8_MARK).split(separator), start=1):
        entry = entry if unit == "entry" else entry.rstrip(b"\r")
        if not entry.strip():
            continue
        where = f"{unit} {number} of {name}"
        path = Path(os.fsdecode(entry))
        if not path.exists():
            raise DataError(f"no such image or folder: {path} ({where}); correct the list{near_path(path)}")
        found.append(ListedPath(path, where))
    if not found:
        raise DataError(f"no image is named: {name} is empty; write one path a line")
    return found


def find_inputs(given: Sequence[str | os.PathLike[str]], reporter: Reporter) -> dict[str, Picture]:
    """Name of the outputs -> picture, in the order given: files, folders of images, or tar shards.

    The name is the stem. Pictures whose outputs would have the same name, in small letters, get the path within the
    given folder or shard in front, and if that does not tell them apart, their suffix behind: a, sub-a, sub-a-jpg.
    Raises DataError for a path where nothing is, and for a picture that is given twice.
    """
    found: dict[Picture, tuple[str, ...]] = {}  # picture -> its names, the shortest first
    taken: set[tuple[str, str | None]] = set()
    for each in given:
        place = f" ({each.where})" if isinstance(each, ListedPath) else ""
        top = Path(each)
        if not top.exists() and not is_shards(top):
            raise DataError(f"no such image or folder: {top}{place}; check the path{near_path(top)}")
        for picture in _pictures(top, reporter):
            key = (os.path.realpath(picture.path), picture.member)
            if key in taken:
                raise DataError(f"image given twice: {picture.name}{place}; name it once")
            taken.add(key)
            found[picture] = _names(picture, top)
    return {name: picture for picture, name in _named_apart(found).items()}


def sound_ones(pictures: dict[str, Picture], reporter: Reporter) -> tuple[dict[str, Picture], list[str]]:
    """The pictures that can be opened and are whole as far as a short look tells, and what is wrong with the others."""
    sound: dict[str, Picture] = {}
    skipped: list[str] = []
    told = reporter if len(pictures) >= _WORTH_A_BAR else SILENT
    with told.bar("looking at the pictures", len(pictures)) as advance:
        for name, picture in pictures.items():
            try:
                if picture.member is None:
                    look_at(picture.path)
                else:  # of a shard that is whole itself
                    read_header(picture, "image")
            except PictureError as error:
                if len(pictures) == 1:
                    raise
                skipped.append(without_move(error))
            else:
                sound[name] = picture
            advance("")
    return sound, skipped


def some_left(count: int, skipped: Sequence[str]) -> None:
    """Raises DataError unless a picture is left; `count` are."""
    if not count:
        raise DataError(f"no image is left: {len(skipped)} are bad, first: {skipped[0]}; give others")


def told_of(skipped: Sequence[str]) -> str:
    """The first of the pictures that were skipped, and how many more there are."""
    more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
    return ", ".join(skipped[:SHOWN]) + more


def _pictures(top: Path, reporter: Reporter) -> Sequence[Picture]:
    if top.is_dir() and (files_under(top, IMAGE_SUFFIXES) or not is_shards(top)):
        return [Picture(path) for path in list_images(top, say=reporter.say)]
    return list_pictures(top, say=reporter.say) if is_shards(top) else [Picture(top)]


def _names(picture: Picture, top: Path) -> tuple[str, ...]:
    """The names that the outputs of a picture found in `top` may have, the shortest first."""
    if picture.member is not None:
        file, folder = Path(picture.member), (Path(picture.path.stem), *Path(picture.member).parent.parts)
        inside = tuple(map(str, folder))
    else:
        file = picture.path
        inside = file.relative_to(top).parent.parts if top.is_dir() else ()
    long = "-".join([*(inside or (file.parent.name,)), file.stem])
    return (file.stem, long, f"{long}-{file.suffix[1:]}")


def _named_apart(found: dict[Picture, tuple[str, ...]]) -> dict[Picture, str]:
    """The first name of each picture with which its outputs clash with no other's. Raises DataError without one."""
    tried = dict.fromkeys(found, 0)
    while True:
        makers: dict[str, list[Picture]] = {}
        for picture, names in found.items():
            for output in ("", "-overlay", "-panoptic"):
                makers.setdefault(f"{names[tried[picture]]}{output}".casefold(), []).append(picture)
        clashing = {picture for several in makers.values() if len(several) > 1 for picture in several}
        if not clashing:
            return {picture: names[tried[picture]] for picture, names in found.items()}
        longer = {picture for picture in clashing if tried[picture] + 1 < len(found[picture])}
        if not longer:
            first, second = sorted(picture.name for picture in clashing)[:2]
            raise DataError(f"two images would get the same name: {first} and {second}; segment them apart")
        for picture in longer:
            tried[picture] += 1
