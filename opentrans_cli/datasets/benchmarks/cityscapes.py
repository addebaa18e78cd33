"""Cityscapes (Cordts et al. 2016): streets of 50 cities; 19 of its 35 labels are scored."""

from __future__ import annotations

from opentrans_cli.datasets.benchmarks.base import COUNTED, Conversion, DiskLayout, IdCoding
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet

_VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255)

_TRAIN_IDS = DiskLayout(
    "labelTrainIds, of cityscapesscripts",
    homes=("cityscapes", ""),
    images="leftImg8bit/{split}",
    labels="gtFine/{split}",
    image_suffix="_leftImg8bit.png",
    label_suffix="_gtFine_labelTrainIds.png",
    coding=COUNTED,
)

CITYSCAPES = BenchmarkSet(
    "cityscapes",
    title="Cityscapes, fine annotations",
    download="https://www.cityscapes-dataset.com/downloads/",
    layouts=(
        DiskLayout(
            "labelIds, as downloaded",
            downloaded=True,
            homes=("cityscapes", ""),
            images="leftImg8bit/{split}",
            labels="gtFine/{split}",
            image_suffix="_leftImg8bit.png",
            label_suffix="_gtFine_labelIds.png",
            coding=IdCoding(ignored=_VOID),
        ),
        _TRAIN_IDS,
    ),
    conversions=(Conversion("fc-clip", _TRAIN_IDS, label_suffix="_gtFine_labelTrainIds.png"),),
    things=frozenset(range(24, 34)),
)
