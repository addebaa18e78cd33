"""check: whether photos, label maps and classes fit together, before anything expensive starts.

scan.py      what is in each pair of files; findings.py: what follows from it, with the next move
check.py     the verb; first.py: its cheap part, which other verbs run before they start
samples.py   some photos with their label maps over them
"""
