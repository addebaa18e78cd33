"""Label maps of a download written once in another layout of the benchmark: those of the programs of this field.

A file is written under another name and renamed, so a run that was killed leaves whole files alone, and the next one
goes on. What is there and fits its photo is not written again; what is there and does not is replaced.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.datasets.benchmarks.base import BenchmarkFacts, Conversion
from opentrans_cli.datasets.benchmarks.on_disk import SplitOnDisk, find_split, layouts_on_disk, raw_download
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkPairs, coded_classes, label_decoder, told_apart
from opentrans_cli.datasets.benchmarks.raw import RawDownload, RawPicture
from opentrans_cli.datasets.benchmarks.shrink import shrink_label_map, shrink_photo, shrunk_shape
from opentrans_cli.datasets.images import look_at, read_image, turned_as
from opentrans_cli.datasets.options import Split
from opentrans_cli.datasets.pairs import Header, read_header
from opentrans_cli.datasets.picture_source import Picture
from opentrans_cli.datasets.scan import read_ahead, spread
from opentrans_cli.errors import DataError, OutputError, PictureError
from opentrans_cli.files.atomic import left_in, temporary_beside, write_file
from opentrans_cli.files.figures import human_bytes
from opentrans_cli.files.targets import check_makeable
from opentrans_cli.reporter import SILENT, Reporter

_TRIED = 4
"""So many pictures are converted to see how much room all of them take."""

_QUALITY = 75
"""Of JPEG files, as Pillow writes them by default and so the field's own converters."""


@dataclass(frozen=True)
class BadPicture:
    """A picture of the download that could not be converted."""

    name: str
    problem: str  # with the file and the next move


@dataclass(frozen=True)
class PreparedSplit:
    """What `prepare_split` did."""

    source: str  # name of the layout that was read
    target: SplitOnDisk
    written: int  # pictures
    there: int  # pictures that were there before
    bad: tuple[BadPicture, ...]
    bytes: int  # that were written, photos that are links left out


def prepare_split(
    benchmark: BenchmarkFacts, conversion: Conversion, root: Path, split: Split, *, reporter: Reporter = SILENT
) -> PreparedSplit:
    """Write a split of `benchmark` in the layout of `conversion` under `root`.

    Pictures that are damaged or do not fit are named in the result, the others are written. Raises DataError if the
    download is not there or not whole, OutputError if nothing may be written or there is not enough room.
    """
    work = _Work(benchmark, conversion, root, split)
    _check_writable(work)
    for folder in {path.parent for raw in work.pictures for path in work.outputs(raw)}:
        for half in left_in(folder):
            half.unlink(missing_ok=True)
    bad: list[BadPicture] = []
    missing: list[RawPicture] = []
    with reporter.bar("looking for what is there", len(work.pictures)) as advance:
        for raw, there in zip(work.pictures, read_ahead(work.is_there, work.pictures), strict=True):
            if not there:
                missing.append(raw)
            advance("")
    _check_room(work, missing)
    size = 0
    if missing:
        with reporter.bar("converting", len(work.pictures), done=len(work.pictures) - len(missing)) as advance:
            for raw, done in zip(missing, read_ahead(work.tried, missing), strict=True):
                if isinstance(done, PictureError):
                    bad.append(BadPicture(raw.name, str(done)))
                else:
                    size += done
                advance(f"{len(bad)} bad" if bad else "")
    work.write_list()
    written = len(missing) - len(bad)
    return PreparedSplit(work.source, work.target, written, len(work.pictures) - len(missing), tuple(bad), size)


class _Work:
    """The pictures of a split, and what is written for each."""

    def __init__(self, benchmark: BenchmarkFacts, conversion: Conversion, root: Path, split: Split) -> None:
        self.benchmark, self.conversion, self.split = benchmark, conversion, split
        layout, download = conversion.target, _download(benchmark, conversion, root, split)
        self.source, self.pictures = download.name, download.pictures
        home = root / layout.homes[0] if conversion.photos else download.home
        self.target = SplitOnDisk(layout, split, home, ())
        folder = self.target.path(layout.labels)
        if folder.is_dir() and any(folder.iterdir()) and (there := told_apart(benchmark, self.target)) != layout:
            raise OutputError(f"holds label maps of another kind: {folder} ({there.name}); move them first")
        coded = coded_classes(benchmark, layout.coding)
        self._ids = np.array([*coded.ids, layout.coding.ignored[0]])  # of each class, then of no class
        self._known = {*coded.ids, *coded.void}

    @property
    def home(self) -> Path:
        """The folder of the layout that is written."""
        return self.target.home

    def outputs(self, raw: RawPicture) -> tuple[Path, ...]:
        """The label map of a picture, and its photo if that is written as well."""
        layout, suffix = self.target.layout, self.conversion.label_suffix
        labels = self.target.path(layout.labels) / f"{raw.name}{suffix}"
        if not self.conversion.photos:
            return (labels,)
        return labels, self.target.path(layout.images) / f"{raw.name}{raw.photo.suffix}"

    def is_there(self, raw: RawPicture) -> bool:
        """Whether what is written for a picture is there, whole, of the right size and with ids of classes alone."""
        labels, *photos = self.outputs(raw)
        if not all(path.is_file() for path in (labels, *photos)):
            return False
        try:
            for photo in photos:
                look_at(photo)
            photo_header = read_header(Picture(photos[0] if photos else raw.photo), "image")
            source = read_header(Picture(raw.photo), "image")
            ids = label_decoder(self.benchmark, self.target.layout)(labels, str(labels))
        except PictureError:
            return False
        fits = photo_header.holds(Header(*ids.shape[::-1])) and self._final(source) in (
            photo_header.stored,
            photo_header.upright,
        )
        return fits and {*np.unique(ids).tolist()} <= self._known

    def _final(self, photo: Header) -> tuple[int, int]:
        """(width, height) of what is written for a photo."""
        width, height = photo.upright
        if self.conversion.shorter is None:
            return width, height
        return shrunk_shape((height, width), self.conversion.shorter)[::-1]

    def converted(self, raw: RawPicture) -> Mapping[Path, bytes | Path]:
        """By path what is written for a picture: the content, or the file that is linked to or copied.

        Raises PictureError for a damaged file, and for a label map that does not fit its photo.
        """
        indices, photo = raw.read(), read_header(Picture(raw.photo), "image")
        (width, height), (map_height, map_width) = photo.upright, indices.shape
        if not photo.holds(Header(map_width, map_height)):
            raise PictureError(
                f"image is {width}x{height} but its label map {map_width}x{map_height}: {raw.labels}; "
                "download both again"
            )
        labels, *photos = self.outputs(raw)
        content: dict[Path, bytes | Path] = {}
        for path in photos:
            shape = self._final(photo)[::-1]
            if shape == (height, width):
                look_at(raw.photo)
                content[path] = raw.photo
            else:
                image = read_image(raw.photo)
                turned = turned_as(raw.photo, str(raw.photo), indices)
                indices = shrink_label_map(indices if turned is None else turned, shape)
                content[path] = _encoded(shrink_photo(image, shape), "JPEG")
        content[labels] = _encoded(self._as_written(indices), "TIFF" if labels.suffix == ".tif" else "PNG")
        return content

    def _as_written(self, indices: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
        """Class indices as the ids of the layout that is written."""
        ids = self._ids[np.minimum(indices, len(self._ids) - 1)]
        return ids.astype(np.uint16 if self.target.layout.coding.bits == 16 else np.uint8)

    def write(self, raw: RawPicture) -> int:
        """Write what belongs to a picture; bytes that were written. Raises PictureError, and OutputError."""
        size = 0
        for path, content in self.converted(raw).items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, Path):
                    _link(content, path)
                else:
                    size += write_file(path, [content]).bytes
            except OSError as error:
                raise OutputError(
                    f"cannot write: {path}, {error.strerror or error}; free some room, then the same command goes on"
                ) from error
        return size

    def tried(self, raw: RawPicture) -> int | PictureError:
        """The same, and the error of a picture that cannot be converted. Raises OutputError."""
        try:
            return self.write(raw)
        except PictureError as error:
            return error

    def write_list(self) -> None:
        """Write the list of names that the layout has, unless it is there."""
        listed = self.target.layout.listed
        if listed is None or (path := self.target.path(listed)).exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, ["".join(f"{raw.name}\n" for raw in self.pictures).encode()])


def _download(benchmark: BenchmarkFacts, conversion: Conversion, root: Path, split: Split) -> RawDownload:
    """What is converted. Raises DataError if it is not there, or some of it is missing."""
    if conversion.raw is not None and (found := conversion.raw(root, split)) is not None:
        return found
    target = conversion.target
    for place in layouts_on_disk(benchmark, root, split):
        fits = conversion.photos or place.layout.images == target.images
        if place.whole and place.layout != target and fits:
            return RawDownload(place.layout.name, place.home, _of_pairs(BenchmarkPairs(benchmark, place)))
    raw = raw_download(benchmark, root)
    if raw and not any(place.whole for place in layouts_on_disk(benchmark, root, split)):
        raise DataError(f"no pictures of {benchmark.name} ({split}) in {raw[0]}; unpack the whole download")
    there = find_split(benchmark, root, split)
    raise DataError(
        f"nothing to convert: {benchmark.name} ({split}) lies in {there.home} as {there.layout.name} alone; it can be "
        "read as it is"
    )


def _of_pairs(pairs: BenchmarkPairs) -> tuple[RawPicture, ...]:
    return tuple(
        RawPicture(pairs.name(index), pair.photo.path, pair.label_map.name, partial(pairs.stored_classes, index))
        for index, pair in enumerate(pairs.pairs)
    )


def _check_writable(work: _Work) -> None:
    for part in (work.target.layout.images, work.target.layout.labels):
        folder = work.target.path(part)
        try:
            check_makeable(folder)
        except OSError as error:
            raise OutputError(
                f"cannot write: {folder} ({error.strerror}: {error.filename}); choose another --root"
            ) from error


def _check_room(work: _Work, missing: Sequence[RawPicture]) -> None:
    """Raises OutputError unless there is room for what is `missing`, as some of it say."""
    sizes = []
    for raw in spread(missing, _TRIED):
        try:
            content = work.converted(raw)
        except PictureError:
            continue  # it is named later, with all others
        sizes.append(sum(len(each) if isinstance(each, bytes) else 0 for each in content.values()))
    if not sizes:
        return
    needed = sum(sizes) * len(missing) // len(sizes)
    there = next(path for path in (work.home, *work.home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"not enough room: {work.home} takes about {human_bytes(needed)} more, {human_bytes(free)} are free; "
            "free some room, or choose another --root"
        )


def _link(source: Path, path: Path) -> None:
    """Make `path` another name of the file `source`, which takes no room; a copy where that cannot be."""
    hidden = temporary_beside(path)
    try:
        try:
            os.link(source, hidden)
        except OSError:
            shutil.copyfile(source, hidden)
        os.replace(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)  # rename does nothing where both are names of one file


def _encoded(pixels: NDArray[np.unsignedinteger], form: str) -> bytes:
    settings: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": _QUALITY},
        "TIFF": {"compression": "tiff_adobe_deflate"},
        "PNG": {},
    }
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=form, **settings[form])
    return file.getvalue()
