"""prepare: a download of a published data set becomes label maps as the programs of this field read them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.datasets import DATASETS, PUBLISHED
from opentrans_cli.datasets.benchmarks.base import Conversion
from opentrans_cli.datasets.benchmarks.on_disk import data_root
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet
from opentrans_cli.datasets.benchmarks.prepare import BadPicture, prepare_split
from opentrans_cli.datasets.options import Split
from opentrans_cli.errors import OptionError, unknown
from opentrans_cli.reporter import LOGGED, Reporter


@dataclass(frozen=True)
class PrepareResult:
    """What is there now, and what of it is new."""

    dataset: str
    split: str
    layout: str  # of `--layout`
    source: str  # what was read
    root: Path
    labels: Path  # folder of the label maps
    images: Path  # folder of the photos
    written: int  # pictures, as the next
    there: int  # that were there before
    bytes: int  # that were written
    bad: tuple[BadPicture, ...]  # pictures that could not be converted

    @property
    def ok(self) -> bool:
        """Whether every picture of the split is there."""
        return not self.bad

    def to_json(self) -> dict[str, Any]:
        """The prepare report of `artifacts.schema.json`."""
        paths = {name: str(getattr(self, name)) for name in ("root", "labels", "images")}
        return {**asdict(self), **paths}


def prepare(
    dataset: str,
    *,
    root: Path | str | None = None,
    split: Split = "val",
    layout: str | None = None,
    reporter: Reporter | None = None,
) -> PrepareResult:
    """Convert the download of a published data set under `root`; what is there already is left as it is.

    root: None: the folder that DETECTRON2_DATASETS names. layout: which one is written; None: the first that the data
    set has. Raises OptionError for a data set or a layout that is not known, DataError for a download that is not there
    or not whole, OutputError where nothing may be written.
    """
    if dataset not in PUBLISHED:
        raise OptionError(unknown("published data set", dataset, PUBLISHED))
    benchmark: BenchmarkSet = DATASETS.load(dataset)
    conversion = _conversion(benchmark, layout)
    place = data_root(None if root is None else Path(root))
    done = prepare_split(benchmark, conversion, place, split, reporter=reporter or LOGGED)
    paths = done.target.layout
    return PrepareResult(
        dataset=dataset,
        split=split,
        layout=conversion.name,
        source=done.source,
        root=place,
        labels=done.target.path(paths.labels),
        images=done.target.path(paths.images),
        written=done.written,
        there=done.there,
        bytes=done.bytes,
        bad=done.bad,
    )


def _conversion(benchmark: BenchmarkSet, layout: str | None) -> Conversion:
    names = [each.name for each in benchmark.conversions]
    if layout is not None and layout not in names:
        raise OptionError(unknown(f"layout of {benchmark.name}", layout, names))
    return benchmark.conversions[0 if layout is None else names.index(layout)]
