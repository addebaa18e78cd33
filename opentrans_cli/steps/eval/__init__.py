"""eval: scores of a segmentor or of anybody's predictions, and tables of several evaluations.

options.py            the options of all of these
evaluate.py           one segmentor on one data set; curve.py: a bundle at every sparsity of its run
state.py              what an interrupted evaluation goes on from
seen.py               which classes had training labels; word_order.py: whether other words are in the classes' order
protocol.py           what decides the figures beside the segmentor
predictions.py        label maps of any tool; truth.py: what they are compared with
objects.py            segments and objects: what a segmentor finds, and the figures; pieces.py: kept on the disk
coco_files.py         those that any tool has found
compare.py            several evaluations in one table; found_reports.py: where they are found
score_table.py        that table, and where protocols differ; score_table_files.py: it as a file
published_scores.py   the paper's rows beside it
"""
