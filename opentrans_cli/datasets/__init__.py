"""Labelled images, pictures without labels, and the table of data sets.

    base.py             Sample and the SegDataset protocol; options.py: the options of both
    vocabulary.py       class names and their synonyms; vocabulary_pack.py: classes with text embeddings
    images.py           pictures and label maps on disk; suffixes.py: how their names end; matlab.py: MATLAB's files
    listing.py          files of a folder, and what is said of those left out; label_names.py: label maps among photos
    class_file.py       class names and ids as files of many projects have them
    textfile.py         split lists and captions, line by line
    streams.py          random numbers that are a function of seed and index
    sampling.py         the batch of a step, a function of (seed, step)
    crops.py            one random training crop, a function of (seed, number)
    crop_source.py      crops of a whole data set, in this process or in workers
    labelled.py         photos with label maps as a data set; pairs.py: which belong together; scan.py: what they hold
    folder.py           the user's own images and label maps; label_maps.py: label maps without photos
    panoptic_photos.py  the user's own images with segments
    coco_json.py        COCO's documents; coco_panoptic.py: of segments; coco_objects.py: of objects
    run_lengths.py      regions as COCO stores them
    benchmarks/         published data sets, found under a root folder
    shapes.py           the embedded data set; scenes.py: how its scenes are painted
    picture_source.py   a folder, a file list or tar shards -> pictures; shards.py: the pictures inside shards
    views.py            all views, in memory or made again for every batch
    workers.py          processes or threads that make pictures ahead

A new data set is one file with a function `open_NAME(options: DatasetOptions) -> SegDataset`, or for a published one a
description in benchmarks/, and one line in the table.
"""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

DATASETS = Catalog(
    "data set",
    {
        "shapes": "opentrans_cli.datasets.shapes:open_shapes",
        "folder": "opentrans_cli.datasets.folder:open_folder",
        "panoptic": "opentrans_cli.datasets.panoptic_photos:open_panoptic",
        "coco": "opentrans_cli.datasets.benchmarks.coco:COCO",
        "coco-stuff": "opentrans_cli.datasets.benchmarks.coco_stuff:COCO_STUFF",
        "cityscapes": "opentrans_cli.datasets.benchmarks.cityscapes:CITYSCAPES",
        "ade20k-150": "opentrans_cli.datasets.benchmarks.ade20k:ADE20K_150",
        "ade20k-847": "opentrans_cli.datasets.benchmarks.ade20k:ADE20K_847",
        "voc-20": "opentrans_cli.datasets.benchmarks.voc:VOC_20",
        "voc-21": "opentrans_cli.datasets.benchmarks.voc:VOC_21",
        "context-59": "opentrans_cli.datasets.benchmarks.context:CONTEXT_59",
        "context-459": "opentrans_cli.datasets.benchmarks.context:CONTEXT_459",
    },
)
"""Name -> a function that takes DatasetOptions and returns a SegDataset."""

PUBLISHED = tuple(name for name, target in DATASETS.targets.items() if ".benchmarks." in target)
"""Names of those that lie under a root folder."""
