"""What of a benchmark lies under a root folder: which layout is whole, and what others lack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.datasets.benchmarks.base import ROOT_VARIABLE, BenchmarkFacts, DiskLayout
from opentrans_cli.datasets.options import Split
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
    """The first layout that is whole, else that of which most is there; a layout counts in each of its homes."""
    found = list(layouts_on_disk(benchmark, root, split))
    whole = next((each for each in found if each.whole), None)
    return whole or min(found, key=lambda each: len(each.missing) / len(each.layout.parts(split)))


def raw_download(benchmark: BenchmarkFacts, root: Path) -> tuple[Path, ...]:
    """What lies there of the official download that has to be converted first."""
    return tuple(root / part for part in benchmark.raw if (root / part).exists())


def find_split(benchmark: BenchmarkFacts, root: Path, split: Split) -> SplitOnDisk:
    """The layout to read. Raises DataError, which says what is missing and what to do."""
    nearest = nearest_split(benchmark, root, split)
    if nearest.whole:
        return nearest
    name = benchmark.name
    if raw := raw_download(benchmark, root):
        raise DataError(f"data set is not prepared: {name} in {raw[0]}; run `opentrans datasets prepare {name}`")
    lists = "`opentrans datasets` lists the files it needs and where to get them"
    if len(nearest.missing) == len(nearest.layout.parts(split)):
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


def _missing(layout: DiskLayout, home: Path, split: Split) -> Iterator[Path]:
    image_ends = IMAGE_SUFFIXES if layout.image_suffix is None else (layout.image_suffix.lower(),)
    label_ends = LABEL_SUFFIXES if layout.label_suffix is None else (layout.label_suffix.lower(),)
    for part, ends in ((layout.images, image_ends), (layout.labels, label_ends)):
        if not _holds_any(home / layout.at(part, split), ends):
            yield home / layout.at(part, split)
    for file in (layout.listed, layout.panoptic):
        if file is not None and not (home / layout.at(file, split)).is_file():
            yield home / layout.at(file, split)


def _holds_any(folder: Path, ends: tuple[str, ...]) -> bool:
    """Whether a file in the folder or below has such a name; the first one that is found ends the search."""
    return any(name.lower().endswith(ends) for _, _, names in os.walk(folder) for name in names)
