"""Published data sets, read where their files lie under one root folder.

    base.py             a benchmark described: its classes, the layouts in which its files are known, what labels hold
    on_disk.py          what of a benchmark lies under a root, and what is missing
    pairs.py            its photos and label maps as a data set
    coco.py ...         one description each

A new one is one file with a constant of `BenchmarkSet`, and one line in the table `DATASETS`; see base.py.
"""
