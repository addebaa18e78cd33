"""What of a benchmark lies under a root folder: which layout is whole, and what others lack."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from opentrans_cli.datasets.benchmarks.base import BenchmarkFacts, DiskLayout
from opentrans_cli.datasets.options import ROOT_VARIABLE, Split
from opentrans_cli.datasets.suffixes import IMAGE_SUFFIXES, LABEL_SUFFIXES
from opentrans_cli.errors import DataError, OptionError


@dataclass(frozen=True)
class SplitOnDisk:
    """The files of a split in one layout."""

    layout: DiskLayout
    split: Split
    home: Path
    missing: tuple[Path, ...]  # folders without a file of their kind, and files that are not there

    @property
    def whole(self) -> bool:
        """Whether all is there, as names say."""
        return not self.missing

    @property
    def lacking(self) -> float:
        """The share of the parts that is missing, in [0, 1]."""
        return len(self.missing) / len(self.layout.parts(self.split))

    def path(self, part: str) -> Path:
        """A path of the layout, for this split."""
        return self.home / self.layout.at(part, self.split)


def data_root(root: Path | None) -> Path:
    """The root folder: `root`, else what DETECTRON2_DATASETS names. Raises OptionError without one, and DataError."""
    given = root or (Path(named) if (named := os.environ.get(ROOT_VARIABLE)) else None)
    if given is None:
        raise OptionError(f"where are the data sets? add --root DIR, or set ${ROOT_VARIABLE}")
    if not given.is_dir():
        origin = "--root" if root is not None else f"${ROOT_VARIABLE}"
        raise DataError(f"root folder of data sets not found: {given}; correct {origin}")
    return given


def nearest_split(benchmark: BenchmarkFacts, root: Path, split: Split) -> SplitOnDisk:
    """The first layout that is whole, else that of which most is there, first of all the download as it is unpacked.

    A layout counts in each of its homes.
    """
    found = list(layouts_on_disk(benchmark, root, split))
    whole = next((each for each in found if each.whole), None)
    return whole or min(found, key=lambda each: (each.lacking, not each.layout.downloaded))


def raw_download(benchmark: BenchmarkFacts, root: Path) -> tuple[Path, ...]:
    """What lies there of the official download that has to be converted first."""
    return tuple(root / part for part in benchmark.raw if (root / part).exists())


def prepare_command(name: str, root: Path, split: Split) -> str:
    """The line for a shell that prepares a split of a data set under this root."""
    of_split = "" if split == "val" else f" --split {split}"
    of_root = "" if os.environ.get(ROOT_VARIABLE) == str(root) else f" --root {shlex.quote(str(root))}"
    return f"opentrans datasets prepare {name}{of_split}{of_root}"


def find_split(benchmark: BenchmarkFacts, root: Path, split: Split) -> SplitOnDisk:
    """The layout to read. Raises DataError, which says what is missing and what to do."""
    nearest = nearest_split(benchmark, root, split)
    if nearest.whole:
        return nearest
    name = benchmark.name
    if raw := raw_download(benchmark, root):
        raise DataError(f"data set is not prepared: {name} in {raw[0]}; run `{prepare_command(name, root, split)}`")
    lists = "`opentrans datasets` lists the files it needs and where to get them"
    if nearest.lacking == 1:
        raise DataError(f"data set not found: {name} ({split}) in {root}; {lists}")
    first, *more = nearest.missing
    others = f" and {len(more)} more" if more else ""
    kind = "is empty or holds no pictures of the wanted names" if first.is_dir() else "is not there"
    raise DataError(f"data set is not whole: {name} ({split}), {first}{others} {kind}; {lists}")


def layouts_on_disk(benchmark: BenchmarkFacts, root: Path, split: Split) -> Iterator[SplitOnDisk]:
    """Every layout in each of its homes."""
    for layout in benchmark.layouts:
        if split in layout.splits:
            for home in layout.homes:
                yield SplitOnDisk(layout, split, root / home, tuple(_missing(layout, root / home, split)))


class PartOnDisk(NamedTuple):
    """A folder or file of a split."""

    path: Path
    kind: str  # "photos", "label maps", "list" or "panoptic JSON"
    ends: tuple[str, ...]  # of the names of the files in a folder, in lower case; () for a file

    def files(self) -> Iterator[str]:
        """The names of the files in the folder and below that end so; the name of a file that is there."""
        if not self.ends:
            yield from (self.path.name,) if self.path.is_file() else ()
        for _, _, names in os.walk(self.path):
            yield from (name for name in names if name.lower().endswith(self.ends) and not name.startswith("."))


def parts_on_disk(layout: DiskLayout, home: Path, split: Split) -> Iterator[PartOnDisk]:
    """The folders and files that a layout needs for a split, whether they are there or not."""
    for kind, part, suffix, usual in (
        ("photos", layout.images, layout.image_suffix, IMAGE_SUFFIXES),
        ("label maps", layout.labels, layout.label_suffix, LABEL_SUFFIXES),
    ):
        ends = usual if suffix is None else (suffix.lower(),)
        yield PartOnDisk(home / layout.at(part, split), kind, ends)
    for kind, file in (("list", layout.listed), ("panoptic JSON", layout.panoptic)):
        if file is not None:
            yield PartOnDisk(home / layout.at(file, split), kind, ())


def _missing(layout: DiskLayout, home: Path, split: Split) -> Iterator[Path]:
    yield from (part.path for part in parts_on_disk(layout, home, split) if next(part.files(), None) is None)
