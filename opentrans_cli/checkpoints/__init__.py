"""Checkpoint files of other programs, read as data: nothing in them is imported or called.

file_kind.py     what a file is, from its first bytes
pickle_data.py   describes what a pickle would build, without building it
state_names.py   finds the tensors in this description, and their names without wrappers and prefixes
reader.py        a checkpoint of any kind: named tensors, read on demand
pruned.py        checkpoints with the masks of other programs
edit.py          a copy of a checkpoint with some tensors changed
rules.py         key rules: our name of a tensor and its name in another library
"""
