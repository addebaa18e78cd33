"""datasets: the published data sets, what of each lies under the root folder, and what is missing."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from opentrans_cli.datasets import DATASETS, PUBLISHED
from opentrans_cli.datasets.benchmarks.on_disk import data_root, nearest_split, parts_on_disk, raw_download
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet, class_list_of
from opentrans_cli.datasets.images import resize_image, resize_label_map
from opentrans_cli.datasets.options import ROOT_VARIABLE, DatasetOptions, Split
from opentrans_cli.datasets.textfile import read_entries
from opentrans_cli.errors import DataError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import on_processor

SHEET_SIDE = 480
"""Longer side of a photo on the contact sheet, in pixels."""


@dataclass(frozen=True)
class ListedPart:
    """A folder or file of a split."""

    path: str  # below the root, with "/"
    kind: str  # "photos", "label maps", "list" or "panoptic JSON"
    files: int  # found in the folder, with names as they should be; 1 for a file that is there


@dataclass(frozen=True)
class ListedSplit:
    """What of a split is there, in the layout that is whole or of which most is there."""

    split: Split
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
    sheet: Path | None  # the contact sheet that was written

    def to_json(self) -> dict[str, Any]:
        """The datasets report of `artifacts.schema.json`."""
        document = asdict(self)
        for name in ("root", "sheet"):
            document[name] = None if document[name] is None else str(document[name])
        for listed, each in zip(document["datasets"], self.datasets, strict=True):
            listed["to_prepare"] = each.to_prepare
        return document


def datasets(
    *,
    root: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
) -> DatasetsResult:
    """The published data sets, with what of each lies under `root`, else under the folder of DETECTRON2_DATASETS.

    Names are looked at and counted, no file is opened but lists. Without a root the parts are listed as missing.

    out: file for a contact sheet, PNG: of each data set that is there the first photo, and the photo under its label
    map. Raises DataError for a root that is no folder, and with `out` for a data set that cannot be read or if none is
    there; OutputError.
    """
    on_processor("datasets", device)
    reporter, out = reporter or LOGGED, None if out is None else Path(out)
    if out is not None:
        check_file_target(out, force=force)
        prepare_parent(out)
    named_root = root is not None or bool(os.environ.get(ROOT_VARIABLE))
    known = data_root(None if root is None else Path(root)) if named_root else None
    listed = []
    with reporter.bar("looking for data sets", len(PUBLISHED)) as advance:
        for name in PUBLISHED:
            listed.append(_listed(DATASETS.load(name), known))
            advance("")
    if out is not None:
        write_file(out, [_sheet(listed, known, reporter)])
    return DatasetsResult(known, tuple(listed), out)


def _sheet(listed: Sequence[ListedDataset], root: Path | None, reporter: Reporter) -> bytes:
    """The contact sheet as PNG."""
    from opentrans_cli.pictures.contact_sheet import SheetRow, contact_sheet  # Pillow is not light

    found = [(each, next((split for split in each.splits[::-1] if split.whole), None)) for each in listed]
    rows = []
    for each, split in found:
        if split is None:
            continue
        samples = DATASETS.load(each.name)(DatasetOptions(root=root, split=split.split))
        sample = samples[0]
        height, width = sample.label_map.shape
        scale = min(1.0, SHEET_SIDE / max(height, width))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        title = f"{each.name} ({split.split}): {sample.name}, {width} x {height}, {split.layout}"
        image, label_map = resize_image(sample.image, shape), resize_label_map(sample.label_map, shape)
        rows.append(SheetRow(title, image, label_map, samples.vocabulary.names))
        reporter.say(f"drawn: {title}")
    if not rows:
        raise DataError(f"no data set to draw: {root or 'no root folder'}; `opentrans datasets` says what is missing")
    buffer = io.BytesIO()
    contact_sheet(rows).save(buffer, format="PNG")
    return buffer.getvalue()


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
