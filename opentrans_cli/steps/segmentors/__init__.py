"""Segmentors around a tower: built from a bundle or a published checkpoint, and used with words to get scores.

opened.py     a source or checkpoint, opened; built.py: around a tower; published.py: as its own code saves it
words.py      the words, and their embeddings
predictor.py  the label map of one picture, from its scores
windows.py    big pictures in parts; picture_size.py: the size pictures are resized to; certainty.py: pixels of no word
segments.py   the objects and panoptic segments of one picture
scoring.py    pictures compared with the truth; tally.py: what was found, to be added up; figures.py: what it means
call.py       one call, whose cost is counted
"""
