"""eval --predictions: label maps that any tool has written against the true ones; no model, and no torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.label_maps import IdTable, MapFiles
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.datasets.scan import read_ahead
from opentrans_cli.errors import DataError, PictureError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.figures import in_percent
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.targets import check_file_target, prepare_parent
from opentrans_cli.metrics.boundary import BoundaryMatrix, boundary_iou
from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.metrics.miou import mean_iou
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.steps.by_name import by_name, on_processor, takes
from opentrans_cli.steps.eval.options import PredictionOptions, ScoreOptions
from opentrans_cli.steps.eval.truth import Truth, misfit_size, open_truth

_UNUSED = ("skip_bad", "hold_out", "size", "image_suffix")
"""Options of data sets without a use here: there are no images, and every label map and class counts."""


@dataclass(frozen=True)
class PredictionScores:
    """What predictions are worth."""

    path: Path | None  # the file the report was written to
    report: dict[str, Any]  # the prediction report of `artifacts.schema.json`
    images: int


@takes(DatasetOptions, PredictionOptions, ScoreOptions)
def score_predictions(
    source: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    dataset: str | None = None,
    **given: Any,
) -> PredictionScores:
    """Score the label maps in the folder `source`, PNG or TIFF of 8 or 16 bits, which any tool may have written.

    The truth is the folder `labels` with the class file `classes`, or the data set `dataset`. Files belong together by
    their names, whatever subfolders they are in. The report is in percent, and goes to the file `out` if given. On a
    labelled pixel, the id of unlabelled ones is a wrong prediction.

    Options: the fields of `DatasetOptions`, whose split is "val" here, of `PredictionOptions` and of `ScoreOptions`.
    Raises DataError for files that are missing, damaged or do not fit, OutputError or OptionError.
    """
    data: DatasetOptions
    asked: PredictionOptions
    scores: ScoreOptions
    kinds = DatasetOptions, PredictionOptions, ScoreOptions
    data, asked, scores = by_name("score_predictions", {"split": "val", **given}, *kinds)
    on_processor("score_predictions", device)
    if data.images is None:
        data.refuse("predictions are scored without images and have", *_UNUSED)
    reporter, target = reporter or LOGGED, None if out is None else Path(out)
    if target is not None:
        check_file_target(target, force=force)
    truth = open_truth(dataset, data, reporter)
    listed = MapFiles.listed("prediction", Path(source), suffix=asked.prediction_suffix, say=reporter.say)
    predictions, table = listed.matched(truth.names), truth.predicted(asked.prediction_ids)
    _check_names(truth, predictions, reporter)
    _check_headers(truth, predictions, table, reporter)
    count = len(truth.classes.vocabulary)
    confusion, boundary = ConfusionMatrix(count, count), BoundaryMatrix(count, count) if scores.boundary else None

    def pair(row: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        return table.read(predictions, truth.names[row]), truth.label_map(row)

    rows = range(len(truth.names))
    with reporter.bar("scoring", len(rows)) as advance:
        for row, (found, label_map) in zip(rows, read_ahead(pair, rows), strict=True):
            if found.shape != label_map.shape:
                path = predictions.files[truth.names[row]]
                raise misfit_size(path, found.shape[::-1], label_map.shape[::-1], truth.where(row))
            confusion.update(found, label_map)
            if boundary is not None:
                boundary.update(found, label_map)
            advance("")
    if not confusion.labelled.any():
        reporter.say("no pixel of the label maps is labelled, so nothing is scored; check --ignore")
    report = _report(confusion, boundary, truth.classes.vocabulary.names, scores)
    if target is not None:
        prepare_parent(target)
        write_file(target, [json_bytes(report)])
    return PredictionScores(target, report, len(rows))


def _check_names(truth: Truth, predictions: MapFiles, reporter: Reporter) -> None:
    """Raises DataError for a label map without a prediction, and for a prediction without one if none may be left."""
    missing = [name for name in truth.names if name not in predictions.files]
    if missing:
        more = f" ({len(missing)} are missing)" if len(missing) > 1 else ""
        raise DataError(
            f"no prediction for a label map: {predictions.folder / missing[0]}.png{more}; add it, or choose label maps "
            "with --split-list"
        )
    extra = sorted(predictions.files.keys() - {*truth.names})
    pictures = [name for name in extra if not _holds_ids(predictions, name)]
    if pictures:
        first = predictions.files[pictures[0]]
        reporter.say(f"left out, pictures without ids beside the predictions: {len(pictures)}, first: {first}")
    alone = [name for name in extra if name not in pictures]
    if alone and truth.every:
        more = f" ({len(alone)} have none)" if len(alone) > 1 else ""
        raise DataError(
            f"no label map for a prediction: {predictions.files[alone[0]]}{more}; add it, or choose label maps with "
            "--split-list"
        )
    if alone:
        reporter.say(f"left out, predictions of other label maps: {len(alone)} in {predictions.folder}")


def _holds_ids(maps: MapFiles, name: str) -> bool:
    try:
        maps.header(name)
    except PictureError:
        return False
    return True


def _check_headers(truth: Truth, predictions: MapFiles, table: IdTable, reporter: Reporter) -> None:
    """Look at the headers of all files. Raises PictureError for a size, DataError for bits that do not fit."""
    found, known = {}, {}
    with reporter.bar("looking at sizes", len(truth.names)) as advance:
        for row, name in enumerate(truth.names):
            header, true = predictions.header(name), truth.header(row)
            if true is not None and header[:2] != true[:2]:
                raise misfit_size(predictions.files[name], header[:2], true[:2], truth.where(row))
            found[name] = header
            if true is not None:
                known[name] = true
            advance("")
    truth.check_bits(known)
    predictions.check_bits(found, table.classes)


def _report(
    confusion: ConfusionMatrix, boundary: BoundaryMatrix | None, names: tuple[str, ...], scores: ScoreOptions
) -> dict[str, Any]:
    """The scores in percent, as tools of the field print them; None where there is no value."""
    found = mean_iou(confusion, absent=scores.absent)
    times = Counter(names)
    unique = [name if times[name] == 1 else f"{name} (class {index})" for index, name in enumerate(names)]
    report: dict[str, Any] = {
        "miou": found.miou,
        "fwiou": found.fw_iou,
        "macc": found.mean_accuracy,
        "pacc": found.pixel_accuracy,
        "per_class": dict(zip(unique, found.per_class, strict=True)),
    }
    if boundary is not None:
        near = boundary_iou(boundary, found, absent=scores.absent)
        per_class = dict(zip(unique, near.per_class, strict=True))
        report["boundary"] = {"miou": near.miou, "min_miou": near.min_miou, "per_class": per_class}
    percents: dict[str, Any] = in_percent(report)
    return percents
