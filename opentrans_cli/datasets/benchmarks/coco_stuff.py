"""COCO-Stuff (Caesar et al. 2018): 80 classes of things and 91 of stuff on the photos of COCO 2017."""

from __future__ import annotations

from opentrans_cli.datasets.benchmarks.base import COUNTED, Conversion, DiskLayout, IdCoding
from opentrans_cli.datasets.benchmarks.coco import COCO_SPLITS
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet

_STUFFTHINGMAPS = IdCoding(shift=-1)  # with gaps for 11 ids that are never annotated

_COUNTED = DiskLayout(
    "stuffthingmaps_detectron2, classes counted",
    homes=("coco", ""),
    images="{split}",
    labels="stuffthingmaps_detectron2/{split}",
    coding=COUNTED,
    splits=COCO_SPLITS,
)

COCO_STUFF = BenchmarkSet(
    "coco-stuff",
    title="COCO-Stuff, things and stuff on COCO 2017",
    download="https://github.com/nightrome/cocostuff",
    layouts=(
        DiskLayout(
            "stuffthingmaps, as downloaded",
            downloaded=True,
            homes=("coco", ""),
            images="{split}",
            labels="stuffthingmaps/{split}",
            coding=_STUFFTHINGMAPS,
            splits=COCO_SPLITS,
        ),
        _COUNTED,
        DiskLayout(
            "labelTrainIds, of mmsegmentation",
            homes=("coco_stuff164k", ""),
            images="images/{split}",
            labels="annotations/{split}",
            image_suffix=".jpg",
            label_suffix="_labelTrainIds.png",
            coding=COUNTED,
            splits=COCO_SPLITS,
        ),
        DiskLayout(
            "stuffthingmaps in mmsegmentation's tree",
            homes=("coco_stuff164k", ""),
            images="images/{split}",
            labels="annotations/{split}",
            coding=_STUFFTHINGMAPS,
            splits=COCO_SPLITS,
        ),
    ),
    conversions=(Conversion("detectron2", _COUNTED),),
    things=frozenset(range(1, 91)),
)
