"""Label maps without photos: those in a folder by name, and the class of each pixel in as few bits as it takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.class_file import LARGEST_ID, ClassList
from opentrans_cli.datasets.images import IdHeader, id_header, stored_ids
from opentrans_cli.datasets.labelled import without_class
from opentrans_cli.datasets.listing import Say, list_label_maps
from opentrans_cli.datasets.pairs import pair_name
from opentrans_cli.datasets.scan import count_ids
from opentrans_cli.errors import DataError


@dataclass(frozen=True)
class MapFiles:
    """Label maps, or predictions of them, in a folder."""

    kind: str  # "label map" or "prediction", in messages
    folder: Path
    files: Mapping[str, Path]  # by name: the relative path without suffix, or without the end that the user named

    @classmethod
    def listed(cls, kind: str, folder: Path, *, suffix: str | None, say: Say) -> MapFiles:
        """All of a folder. Raises DataError if it is missing or empty, or two files have one name."""
        files: dict[str, Path] = {}
        for path in list_label_maps(folder, suffix=suffix, kind=kind, say=say):
            first = files.setdefault(pair_name(path.relative_to(folder), suffix), path)
            if first is not path:
                raise DataError(f"two {kind}s with one stem: {first} and {path}; keep one")
        return cls(kind, folder, files)

    def matched(self, names: Sequence[str]) -> MapFiles:
        """The same files under the names of those that they belong to, where only the subfolders differ."""
        wanted = Counter(PurePosixPath(name).name for name in names)
        there = Counter(PurePosixPath(name).name for name in self.files)
        whole = {stem: name for name in names if wanted[stem := PurePosixPath(name).name] == 1}
        found = {}
        for name, path in self.files.items():
            stem = PurePosixPath(name).name
            found[whole[stem] if there[stem] == 1 and stem in whole else name] = path
        return MapFiles(self.kind, self.folder, found)

    def header(self, name: str) -> IdHeader:
        """What one file is. Raises PictureError if it is no picture of ids."""
        path = self.files[name]
        return id_header(path, str(path), self.kind)

    def check_bits(self, headers: Mapping[str, IdHeader], classes: ClassList) -> None:
        """Raises DataError if no file can hold the ids of the last classes: then they were lost in writing."""
        last = classes.ids[-1]
        if last > 255 and headers and all(header.bits == 8 for header in headers.values()):
            raise DataError(
                f"{self.kind}s have 8 bits, but classes have ids up to {last}: {self.files[min(headers)]} and all "
                "others; write them again with 16 bits"
            )


class IdTable:
    """What each id in a file means: the class i of `classes` is i, and every id in `ignored` is the next number."""

    def __init__(self, classes: ClassList, ignored: tuple[int, ...], next_move: str) -> None:
        """next_move: what a user may do about files with other ids."""
        self.classes, self._next_move = classes, next_move
        count = len(classes.vocabulary)
        self._table = np.full(LARGEST_ID + 1, count + 1, np.min_scalar_type(count + 1))
        self._table[list(classes.ids)] = np.arange(count)
        self._table[list(ignored)] = count

    def read(self, maps: MapFiles, name: str) -> NDArray[np.unsignedinteger]:
        """The class of each pixel (H, W). Raises PictureError for a damaged file, DataError for an id without class."""
        path, last = maps.files[name], len(self.classes.vocabulary)
        ids = stored_ids(path, str(path), maps.kind)
        if ids.dtype.kind == "u":
            classes = self._table[ids]
        else:  # of 32 bits, in which some programs write 16
            outside = (ids < 0) | (ids > LARGEST_ID)
            classes = np.where(outside, self._table.dtype.type(last + 1), self._table[np.where(outside, 0, ids)])
        if classes.max() > last:
            strange = np.unique(ids[classes > last]).tolist()
            what = without_class(strange, count_ids(ids), self.classes)
            raise DataError(f"{what}: {path}; {self._next_move}")
        return classes
