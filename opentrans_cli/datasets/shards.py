"""Tar shards in webdataset's layout: which pictures a shard holds, and where; nothing is unpacked."""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from opentrans_cli.datasets.images import holds_ids
from opentrans_cli.datasets.label_names import label_maps_among
from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES
from opentrans_cli.errors import DataError

SHARD_SUFFIX = ".tar"
COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")

MOST_SHARDS = 1_000_000
"""Of one pattern, so that a slip of the finger does not fill the memory with names."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_SPAN = re.compile(r"(\d+)\.\.(\d+)")
_BLOCK = tarfile.BLOCKSIZE


class ShardMember(NamedTuple):
    """A picture inside a shard."""

    name: str  # as the archive has it
    offset: int  # of its first byte in the shard
    size: int  # in bytes
    label: ShardMember | None = None  # its label map


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..10}.tar` -> a-08.tar, a-09.tar, a-10.tar; `{x,y}` -> x, y; the last braces vary fastest.

    The first number of a range gives the number of digits. Raises DataError for anything else in braces.
    """
    parts = _BRACES.split(pattern)  # text and the contents of braces alternate
    if any(brace in text for text in parts[::2] for brace in "{}"):
        raise DataError(f"braces are not in pairs: {pattern}; write shards as in shards/{{000..012}}.tar")
    choices = [_choices(inside, pattern) for inside in parts[1::2]]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST_SHARDS:
        raise DataError(f"pattern stands for {count} shards: {pattern}; at most {MOST_SHARDS} are read")
    return [
        "".join(text + chosen for text, chosen in zip(parts[::2], [*combination, ""], strict=True))
        for combination in product(*choices)
    ]


def _choices(inside: str, pattern: str) -> list[str]:
    if span := _SPAN.fullmatch(inside):
        first, last = int(span[1]), int(span[2])
        if first > last:
            raise DataError(f"span runs backwards: {{{inside}}} in {pattern}; write the smaller number first")
        if last - first >= MOST_SHARDS:
            raise DataError(f"span is too long: {{{inside}}} in {pattern}; at most {MOST_SHARDS} shards are read")
        return [f"{number:0{len(span[1])}d}" for number in range(first, last + 1)]
    if "," not in inside:
        raise DataError(f"no span and no list: {{{inside}}} in {pattern}; write shards as in shards/{{000..012}}.tar")
    return inside.split(",")


def index_shard(path: Path, beside: Counter[str] | None = None) -> list[ShardMember]:
    """The photos in the tar file `path`, in its order, from one pass over the headers, each with its label map if any.

    Members that are no pictures (captions, labels) and hidden ones are left out. A picture is a label map, not a photo,
    if it is a PNG or TIFF and is called so (000.seg.png beside 000.jpg, labels/000.png), or lies beside one photo of
    its sample as 000.png beside 000.jpg and holds ids. `beside` counts label maps by their kind of name.

    Raises DataError for a shard without photos, one that is cut short, compressed or no tar, and for pictures stored as
    links or sparse.
    """
    if path.name.lower().endswith(COMPRESSED_SUFFIXES):
        raise DataError(f"tar shard is compressed: {path}; unpack it to a plain .tar, pictures in it gain nothing")
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            pictures = list(_pictures(archive, path))
            _check_end(file, archive.offset, path)
            members = _photos(pictures, file, Counter[str]() if beside is None else beside)
    except FileNotFoundError:
        raise DataError(f"tar shard not found: {path}; check the path") from None
    except OSError as error:
        raise DataError(f"tar shard cannot be read: {path} ({error.strerror}); check the path") from error
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"tar shard cannot be read: {path}; it is cut short, compressed or no tar") from error
    if pictures and not members:
        raise DataError(f"no photo in tar shard, only label maps: {path}, such as {pictures[0].name}; give the photos")
    if not members:
        raise DataError(f"no image in tar shard: {path}; its members must end in {', '.join(IMAGE_SUFFIXES)}")
    return members


def _photos(pictures: list[ShardMember], file: BinaryIO, beside: Counter[str]) -> list[ShardMember]:
    """The photos among `pictures`, with their label maps."""
    named = {member.name: member for member in pictures}
    found = label_maps_among(list(named), lambda name: _holds_ids(named[name], file))
    beside.update(found.kinds)
    return [
        member._replace(label=named.get(found.photos.get(member.name, "")))
        for member in pictures
        if member.name not in found.label_maps
    ]


def _holds_ids(member: ShardMember, file: BinaryIO) -> bool:
    file.seek(member.offset)
    return holds_ids(io.BytesIO(file.read(member.size)))


def _pictures(archive: tarfile.TarFile, path: Path) -> Iterator[ShardMember]:
    for member in archive:
        name = PurePosixPath(member.name)
        if member.isdir() or name.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if any(part.startswith(".") for part in name.parts):
            continue
        if member.issym() or member.islnk():
            raise DataError(f"image in tar shard is a link: {path}:{member.name}; pack the files themselves")
        if member.issparse() or not member.isreg():
            raise DataError(f"image in tar shard is no plain file: {path}:{member.name}; pack it as one")
        yield ShardMember(member.name, member.offset_data, member.size)


def _check_end(file: BinaryIO, offset: int, path: Path) -> None:
    """tarfile treats a missing or invalid header as the end of the archive, and would silently skip the rest."""
    file.seek(offset)
    if file.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(f"tar shard has no end: {path}; it is cut short or damaged, write it again")
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise DataError(
                f"tar shard has something behind its end: {path}; two archives in one file, keep them apart"
            )
