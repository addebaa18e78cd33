"""Labelled images for a verb, opened by name, with what a user should know of them."""

from __future__ import annotations

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.reporter import SILENT, Reporter


def open_samples(dataset: str, data: DatasetOptions, reporter: Reporter = SILENT) -> SegDataset:
    """The data set of this name; how its files were read is reported. Raises DataError or OptionError."""
    samples: SegDataset = DATASETS.load(dataset)(data)
    for remark in samples.remarks:
        reporter.say(remark)
    return samples
