"""COCO panoptic (Kirillov et al. 2019): 80 classes of things and 53 of stuff on the photos of COCO 2017."""

from __future__ import annotations

from collections.abc import Mapping

from opentrans_cli.datasets.benchmarks.base import COUNTED, Conversion, DiskLayout
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet
from opentrans_cli.datasets.options import Split

COCO_SPLITS: Mapping[Split, str] = {"train": "train2017", "val": "val2017"}
"""The names of the folders of COCO's splits."""

_SEMSEG = DiskLayout(
    "panoptic_semseg, of FC-CLIP",
    homes=("coco", ""),
    images="{split}",
    labels="panoptic_semseg_{split}",
    coding=COUNTED,
    splits=COCO_SPLITS,
)

COCO = BenchmarkSet(
    "coco",
    title="COCO 2017, panoptic segmentation",
    download="https://cocodataset.org/#download",
    layouts=(
        DiskLayout(
            "panoptic PNG and JSON, as in FC-CLIP's tree",
            homes=("coco", ""),
            images="{split}",
            labels="panoptic_{split}",
            panoptic="annotations/panoptic_{split}.json",
            coding=COUNTED,
            splits=COCO_SPLITS,
        ),
        DiskLayout(
            "panoptic PNG and JSON, as unpacked",
            downloaded=True,
            homes=("coco", ""),
            images="{split}",
            labels="annotations/panoptic_{split}",
            panoptic="annotations/panoptic_{split}.json",
            coding=COUNTED,
            splits=COCO_SPLITS,
        ),
        _SEMSEG,
    ),
    conversions=(Conversion("fc-clip", _SEMSEG),),
    things=frozenset(range(1, 91)),
)
