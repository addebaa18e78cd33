"""The alpha report outside a bundle: a folder with numbers and pictures, or a single picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.errors import BundleError, OptionError, did_you_mean
from opentrans_cli.files.atomic import staged_folder, write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, check_folder_target, other_than, prepare_parent
from opentrans_cli.files.tensorfile import write_tensors
from opentrans_cli.pictures.charts import check_picture
from opentrans_cli.pictures.esd import esd_chart
from opentrans_cli.pictures.tower_page import tower_page
from opentrans_cli.steps.sources import is_bundle

if TYPE_CHECKING:
    from opentrans_cli.steps.analyze.result import AnalyzeResult

REPORT, TOWER, SPECTRA = "report.json", "tower.png", "spectra.png"


@dataclass(frozen=True)
class Outputs:
    """Where a report goes beside the bundle; nowhere by default."""

    out: Path | None = None  # folder for report.json, alpha.safetensors, tower.png, and spectra.png with `esd`
    plot: Path | None = None  # picture, .png or .svg: the overview of the tower, or the spectra of `esd`
    esd: tuple[str, ...] = ()  # globs of layers
    force: bool = False  # replace existing files

    def check(self) -> None:
        """Check, before anything is read, that all may be written. Raises OptionError, BundleError or OutputError."""
        if self.esd and self.plot is None and self.out is None:
            raise OptionError(f"spectra are drawn into a picture: --esd {self.esd[0]}; say which with --plot or --out")
        for target in filter(None, (self.out, self.plot)):
            if any(is_bundle(str(folder)) for folder in Path(os.path.realpath(target)).parents):
                raise BundleError(f"would lie inside a bundle: {str(target)!r}; choose a place outside of it")
        if self.out is not None:
            check_folder_target(self.out, force=self.force, foreign=other_than(REPORT, ALPHA, TOWER, SPECTRA))
        if self.plot is not None:
            check_picture(self.plot)
            check_file_target(self.plot, force=self.force, option="--plot")

    def prepare(self) -> None:
        """Make the folders of the outputs. Raises OutputError if that is not possible."""
        for target in (self.out, self.plot):
            if target is not None:
                prepare_parent(target)

    def check_layers(self, names: Sequence[str]) -> None:
        """Raises OptionError for a pattern of `esd` that matches none of the layers `names`."""
        for pattern in self.esd:
            if not any(fnmatchcase(name, pattern) for name in names):
                near = did_you_mean(pattern, names)
                raise OptionError(f"no analyzed layer is called so: --esd {pattern}; see the names in the report{near}")

    def write(self, result: AnalyzeResult) -> None:
        """Write what was asked for; each output is written completely or not at all."""
        if self.plot is not None:
            (self._draw_spectra if self.esd else _draw_tower)(self.plot, result)
        if self.out is None:
            return
        with staged_folder(self.out, replace=self.force) as folder:
            write_file(folder / REPORT, [json_bytes(result.to_json())])
            write_tensors(folder / ALPHA, *result.report.tensors())
            _draw_tower(folder / TOWER, result)
            if self.esd:
                self._draw_spectra(folder / SPECTRA, result)

    def _draw_spectra(self, path: Path, result: AnalyzeResult) -> None:
        chosen = [layer for layer in result.layers if any(fnmatchcase(layer.name, pattern) for pattern in self.esd)]
        esd_chart(path, chosen, title=f"{result.source}, {result.report.estimator}")


def _draw_tower(path: Path, result: AnalyzeResult) -> None:
    """Draw the tower; hollow marks are the alphas of the other source, else those of random weights, if asked for."""
    nulls = {layer.name: layer.stability.null_median for layer in result.layers if layer.stability is not None}
    tower_page(
        path,
        result.layers,
        source=result.source,
        estimator=result.report.estimator,
        median=result.median_alpha,
        others=result.against or nulls,
        other_label=result.against_source or "random weights",
    )
