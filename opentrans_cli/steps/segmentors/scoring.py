"""Scoring of a segmentor on labelled images: used for the report of `eval`, and to check a training while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from opentrans_cli.datasets.base import SegDataset
from opentrans_cli.errors import DataError
from opentrans_cli.metrics.confusion import ConfusionMatrix
from opentrans_cli.metrics.miou import mean_iou
from opentrans_cli.steps.segmentors.predictor import Predictor


@dataclass(frozen=True)
class Scored:
    """What was predicted on some images."""

    confusion: ConfusionMatrix
    seconds: tuple[float, ...]  # of each image, without reading the file
    resolution: tuple[int, int]  # height and width to which the first one was resized; zeros without an image
    macs: Mapping[str, int]  # by layer of the segmentor, for the first image; {} if not asked for


def score_images(
    predictor: Predictor,
    samples: SegDataset,
    rows: Iterable[int],
    *,
    counted: bool = False,
    advance: Callable[[str], None] = lambda _: None,
) -> Scored:
    """Compare the predictions for samples `rows`, at their own sizes, with their label maps.

    counted: also count the multiply-accumulates of the first prediction while it is computed.
    Raises DataError for a damaged file, an image without a label map, or one smaller than the tower's stride.
    """
    confusion = ConfusionMatrix(len(samples.vocabulary), samples.ignore_index)
    seconds, resolution, macs = list[float](), (0, 0), dict[str, int]()
    for row in rows:
        sample = samples[row]
        if sample.label_map is None:
            raise DataError(f"image has no label map to score against: '{sample.name}'; add it or leave the image out")
        started = time.perf_counter()
        with predictor.counted() if counted and not seconds else nullcontext(macs) as macs:
            prediction = predictor.label_map(sample.image)
        seconds.append(time.perf_counter() - started)
        confusion.update(prediction, torch.from_numpy(sample.label_map))
        if len(seconds) == 1:
            resolution = predictor.looks_at(sample.image.shape[0], sample.image.shape[1])
        advance("")
    return Scored(confusion, tuple(seconds), resolution, macs)


def group_miou(confusion: ConfusionMatrix, seen: Sequence[bool]) -> dict[str, float | None]:
    """mIoU of all, of seen and of unseen classes (`seen`: by class, had training labels), and pixel accuracy.

    All are fractions; None if none of the classes occurs.
    """
    total = mean_iou(confusion)
    groups = {flag: [index for index, value in enumerate(seen) if value is flag] for flag in (True, False)}
    return {
        "miou": total.miou,
        "miou_seen": mean_iou(confusion, classes=groups[True]).miou,
        "miou_unseen": mean_iou(confusion, classes=groups[False]).miou,
        "pixel_accuracy": total.pixel_accuracy,
    }


def class_ious(confusion: ConfusionMatrix, names: Sequence[str], seen: Sequence[bool]) -> list[dict[str, Any]]:
    """For each class its name, IoU (None if it does not occur) and whether it had training labels."""
    return [
        {"name": name, "iou": iou, "seen": flag}
        for name, iou, flag in zip(names, mean_iou(confusion).per_class, seen, strict=True)
    ]
