"""Options of `check`: those of a data set, of which three are arguments; light, so that `--help` can read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.option import option


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DatasetOptions):
    """What is checked."""

    images: Path = option(help="folder of photos", kind="path", argument=True, metavar="PHOTOS")
    labels: Path = option(help="folder of label maps with the same names", kind="path", argument=True, metavar="LABELS")
    classes: Path = option(help="class file", kind="path", argument=True, metavar="CLASSES")
    hold_out: tuple[str, ...] = ()  # says nothing about the files
    root: Path | None = None  # what is checked is named by its folders
