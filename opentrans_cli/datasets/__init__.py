"""Labelled images: the table of data sets, and what training and evaluation need of one.

    base.py            Sample, the SegDataset protocol, DatasetOptions
    vocabulary.py      class names and their synonyms
    images.py          pictures and label maps on disk
    textfile.py        class lists and split lists, line by line
    crops.py           random training crops, a function of (seed, draw)
    crop_source.py     crops of a whole data set, in this process or in workers
    sampling.py        the batch of a step, a function of (seed, step)
    folder.py          own images and label maps
    captions.py        files with the words of images
    shapes/            the embedded procedural scenes

and of pictures without labels, which distillation looks at:

    picture_source.py  a folder, a file list or tar shards -> pictures
    shards.py          the pictures inside tar shards, and where
    view_sets.py       the square views of pictures, each a function of (seed, index)
    views.py           all views, in memory or made again for every batch
    workers.py         processes that make them, and training crops

A new data set is one file with a function `open_NAME(options: DatasetOptions) -> SegDataset`, and one line in
the table.
"""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

DATASETS = Catalog(
    "data set",
    {
        "shapes": "opentrans_cli.datasets.shapes.dataset:open_shapes",
        "folder": "opentrans_cli.datasets.folder:open_folder",
    },
)
"""Name -> a function that takes DatasetOptions and returns a SegDataset."""
