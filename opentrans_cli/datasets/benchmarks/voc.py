"""PASCAL VOC 2012 (Everingham et al. 2015), segmentation: with 20 classes, and with background as the 21st."""

from __future__ import annotations

from dataclasses import replace

from opentrans_cli.datasets.benchmarks.base import COUNTED, Conversion, DiskLayout
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet

_DOWNLOAD = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
_OFFICIAL = DiskLayout(
    "SegmentationClass, as downloaded",
    downloaded=True,
    homes=("VOCdevkit/VOC2012", "VOC2012", ""),
    images="JPEGImages",
    labels="SegmentationClass",
    listed="ImageSets/Segmentation/{split}.txt",
)
_CONVERTED = DiskLayout(
    "pascal_voc_d2, of FC-CLIP",
    homes=("pascal_voc_d2",),
    images="images/{split}",
    labels="annotations_pascal21/{split}",
    splits={"train": "training", "val": "validation"},
)

_CONVERTED_20 = replace(_CONVERTED, labels="annotations_pascal20/{split}", coding=COUNTED)

VOC_20 = BenchmarkSet(
    "voc-20",
    title="PASCAL VOC 2012, background unlabelled",
    download=_DOWNLOAD,
    layouts=(_OFFICIAL, _CONVERTED_20),
    conversions=(Conversion("fc-clip", _CONVERTED_20, photos=True),),
    class_list="voc-21",
    without=("background",),
)

VOC_21 = BenchmarkSet(
    "voc-21",
    title="PASCAL VOC 2012, background a class",
    download=_DOWNLOAD,
    layouts=(_OFFICIAL, _CONVERTED),
    conversions=(Conversion("fc-clip", _CONVERTED, photos=True),),
)
