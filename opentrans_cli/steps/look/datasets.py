"""datasets: the published data sets, what of each lies under the root folder, and what is missing."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from opentrans_cli.datasets import DATASETS, PUBLISHED
from opentrans_cli.datasets.benchmarks.on_disk import data_root, nearest_split, parts_on_disk, raw_download
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet, class_list_of
from opentrans_cli.datasets.options import ROOT_VARIABLE, Split
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import on_processor


@dataclass(frozen=True)
class ListedPart:
    """A folder or file of a split."""

    path: str  # below the root, with "/"
    kind: str  # "photos", "label maps", "list" or "panoptic JSON"
    files: int  # found in the folder, with names as they should be; 1 for a file that is there


@dataclass(frozen=True)
class ListedSplit:
    """What of a split is there, in the layout that is whole or of which most is there."""

    split: str
    layout: str
    whole: bool  # whether all parts are there, and the split can be read
    images: int  # with label maps, as names say
    parts: tuple[ListedPart, ...]


@dataclass(frozen=True)
class ListedDataset:
    """A published data set."""

    name: str
    title: str
    classes: int
    things: int | None  # classes of objects among them; None: not told apart
    download: str  # address of the page where its owners give it away
    needs_prepare: bool  # the download cannot be read as it is
    raw: tuple[str, ...]  # what lies there of a download that `datasets prepare` converts
    splits: tuple[ListedSplit, ...]

    @property
    def to_prepare(self) -> bool:
        """Whether a split cannot be read, and the download from which it is made lies there."""
        return bool(self.raw) and not all(split.whole for split in self.splits)


@dataclass(frozen=True)
class DatasetsResult:
    """All published data sets."""

    root: Path | None  # None: no folder was named, so nothing was looked for
    datasets: tuple[ListedDataset, ...]

    def to_json(self) -> dict[str, Any]:
        """The datasets report of `artifacts.schema.json`."""
        document = {**asdict(self), "root": None if self.root is None else str(self.root)}
        for listed, each in zip(document["datasets"], self.datasets, strict=True):
            listed["to_prepare"] = each.to_prepare
        return document


def datasets(
    *, root: str | Path | None = None, device: str = "auto", reporter: Reporter | None = None
) -> DatasetsResult:
    """The published data sets, with what of each lies under `root`, else under the folder of DETECTRON2_DATASETS.

    Names are looked at and counted, no file is opened but lists. Without a root the parts are listed as missing. Raises
    DataError for a root that is no folder.
    """
    on_processor("datasets", device)
    reporter = reporter or LOGGED
    named_root = root is not None or bool(os.environ.get(ROOT_VARIABLE))
    known = data_root(None if root is None else Path(root)) if named_root else None
    listed = []
    with reporter.bar("looking for data sets", len(PUBLISHED)) as advance:
        for name in PUBLISHED:
            listed.append(_listed(DATASETS.load(name), known))
            advance("")
    return DatasetsResult(known, tuple(listed))


def _listed(benchmark: BenchmarkSet, root: Path | None) -> ListedDataset:
    classes, things = class_list_of(benchmark), benchmark.things
    return ListedDataset(
        name=benchmark.name,
        title=benchmark.title,
        classes=len(classes.ids),
        things=None if things is None else sum(number in things for number in classes.ids),
        download=benchmark.download,
        needs_prepare=not any(layout.downloaded for layout in benchmark.layouts),
        raw=() if root is None else tuple(_below(path, root) for path in raw_download(benchmark, root)),
        splits=tuple(_split(benchmark, root, split) for split in get_args(Split)),
    )


def _split(benchmark: BenchmarkSet, root: Path | None, split: Split) -> ListedSplit:
    under = root or Path(os.devnull)
    place = nearest_split(benchmark, under, split)
    parts = tuple(
        ListedPart(_below(part.path, under), part.kind, sum(1 for _ in part.files()))
        for part in parts_on_disk(place.layout, place.home, split)
    )
    images = 0
    if place.whole and place.layout.listed is not None:
        images = len(read_entries(place.path(place.layout.listed), "list of images"))
    elif place.whole:
        images = next(part.files for part in parts if part.kind == "label maps")
    return ListedSplit(split, place.layout.name, place.whole, images, parts)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
