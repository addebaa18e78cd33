"""ADE20K (Zhou et al. 2017, 2019): its 150 classes of scene parsing, and the 847 that both splits have."""

from __future__ import annotations

from dataclasses import replace

from opentrans_cli.datasets.benchmarks.ade20k_full import FULL_HOMES, FULL_PHOTOS, full_pictures
from opentrans_cli.datasets.benchmarks.base import COUNTED, COUNTED_16, Conversion, DiskLayout, IdCoding
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet

_OFFICIAL = DiskLayout(
    "annotations, as downloaded",
    downloaded=True,
    homes=("ADEChallengeData2016", "ade/ADEChallengeData2016", ""),
    images="images/{split}",
    labels="annotations/{split}",
    coding=IdCoding(ignored=(0,)),
    splits={"train": "training", "val": "validation"},
)
_CONVERTED = replace(
    _OFFICIAL,
    name="annotations_detectron2, of FC-CLIP",
    downloaded=False,
    labels="annotations_detectron2/{split}",
    coding=COUNTED,
)
_FULL = DiskLayout(
    "annotations_detectron2, of FC-CLIP",
    homes=FULL_HOMES,
    images="images_detectron2/{split}",
    labels="annotations_detectron2/{split}",
    coding=COUNTED_16,
    splits={"train": "training", "val": "validation"},
)


ADE20K_150 = BenchmarkSet(
    "ade20k-150",
    title="ADE20K, scene parsing",
    download="http://sceneparsing.csail.mit.edu/",
    layouts=(_OFFICIAL, _CONVERTED),
    conversions=(Conversion("fc-clip", _CONVERTED),),
)

ADE20K_847 = BenchmarkSet(
    "ade20k-847",
    title="ADE20K, all objects",
    download="https://ade20k.csail.mit.edu/",
    layouts=(_FULL,),
    raw=tuple(f"{home}/{FULL_PHOTOS}" for home in FULL_HOMES),
    conversions=(
        Conversion(
            "fc-clip",
            _FULL,
            label_suffix=".tif",
            photos=True,
            shorter=512,
            raw=full_pictures,
        ),
    ),
)
