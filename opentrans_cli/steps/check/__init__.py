"""check: whether photos, label maps and classes fit together, before anything expensive starts.

check.py     the verb; options.py: its options
files.py     what names, sizes and turns say; ids.py: what ids say; findings.py: what a finding is
drawing.py   some photos with their label maps over them

The laws of a pair are in `datasets/pairs.py`, where the loaders have them from; `datasets/scan.py` reads the files.
"""
