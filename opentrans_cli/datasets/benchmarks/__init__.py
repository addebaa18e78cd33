"""Published data sets, read where their files lie under one root folder.

    base.py              a benchmark described: its classes, the layouts in which its files are known, what labels hold
    on_disk.py           what of a benchmark lies under a root, and what is missing
    pairs.py             its photos and label maps as a data set
    prepare.py           a download converted into another layout; shrink.py: large pictures made smaller
    raw.py               a download that no layout describes, so that it has to be converted
    ade20k_full.py       that of ADE20K with all objects
    context_download.py  that of PASCAL Context; context_ids.py: its ids; detail.py: the file of PASCAL in Detail

The other files are one description each: coco.py, coco_stuff.py, cityscapes.py, ade20k.py, voc.py, context.py. A new
one is one file with a constant of `BenchmarkSet`, and one line in the table `DATASETS`; see base.py.
"""
