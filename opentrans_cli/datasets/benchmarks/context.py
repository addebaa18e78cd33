"""PASCAL Context (Mottaghi et al. 2014): VOC 2010 with labels everywhere; 459 classes, and the 59 most frequent."""

from __future__ import annotations

from dataclasses import replace

from opentrans_cli.datasets.benchmarks.base import COUNTED, COUNTED_16, Conversion, DiskLayout, IdCoding
from opentrans_cli.datasets.benchmarks.context_download import context_59_pictures, context_459_pictures
from opentrans_cli.datasets.benchmarks.context_ids import CONTEXT_59_IDS, CONTEXT_HOMES, MOST_CONTEXT_ID
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkSet

_DOWNLOAD = "https://www.cs.stanford.edu/~roozbeh/pascal-context/"

_FC_CLIP = DiskLayout(
    "pascal_ctx_d2, of FC-CLIP",
    homes=("pascal_ctx_d2",),
    images="images/{split}",
    labels="annotations_ctx459/{split}",
    coding=COUNTED_16,
    splits={"train": "training", "val": "validation"},
)
_OPENTRANS = DiskLayout(
    "SegmentationClassContext, of OpenTrans",
    homes=CONTEXT_HOMES,
    images="JPEGImages",
    labels="SegmentationClassContext_459",
    listed="ImageSets/SegmentationContext/{split}.txt",
    coding=COUNTED_16,
)
_MATLAB = replace(
    _OPENTRANS,
    name="trainval of MATLAB files, as downloaded",
    labels="trainval",
    label_suffix=".mat",
    coding=IdCoding(ignored=(0,), bits=16),
)
_MATLAB_59 = IdCoding(CONTEXT_59_IDS, ignored=tuple(sorted({*range(MOST_CONTEXT_ID + 1)} - {*CONTEXT_59_IDS})))
_VOC_LIST = "ImageSets/Main/{split}.txt"

_FC_CLIP_59 = replace(_FC_CLIP, labels="annotations_ctx59/{split}", coding=COUNTED)
_OPENTRANS_59 = replace(_OPENTRANS, labels="SegmentationClassContext", coding=COUNTED)
_OPENTRANS_59 = replace(
    _OPENTRANS_59,
    twin=replace(
        _OPENTRANS_59, name="SegmentationClassContext, of mmsegmentation", coding=IdCoding(ignored=(0,)), twin=None
    ),
)


CONTEXT_59 = BenchmarkSet(
    "context-59",
    title="PASCAL Context, the 59 most frequent classes",
    download=_DOWNLOAD,
    layouts=(
        _FC_CLIP_59,
        _OPENTRANS_59,
        replace(_MATLAB, coding=_MATLAB_59),
        replace(_MATLAB, coding=_MATLAB_59, listed=_VOC_LIST, downloaded=True),
    ),
    raw=("VOCdevkit/VOC2010/trainval_merged.json", "VOC2010/trainval_merged.json"),
    conversions=(
        Conversion("fc-clip", _FC_CLIP_59, photos=True, raw=context_59_pictures),
        Conversion("opentrans", _OPENTRANS_59, raw=context_59_pictures),
    ),
)

CONTEXT_459 = BenchmarkSet(
    "context-459",
    title="PASCAL Context, all 459 classes",
    download=_DOWNLOAD,
    layouts=(_FC_CLIP, _OPENTRANS, _MATLAB, replace(_MATLAB, listed=_VOC_LIST, downloaded=True)),
    conversions=(
        Conversion("fc-clip", _FC_CLIP, label_suffix=".tif", photos=True, raw=context_459_pictures),
        Conversion("opentrans", _OPENTRANS, raw=context_459_pictures),
    ),
)
