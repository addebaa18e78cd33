"""Checkpoint files of other programs, read as data: nothing in them is imported or called.

file_kind.py     what a file is, from its first bytes
pickle_data.py   what a pickle would build, described
state_names.py   the tensors in that, by name: wrappers, prefixes, whole modules
reader.py        a checkpoint of any kind: named tensors, read when they are asked for
pruned.py        the same with the masks of other programs
edit.py          a copy of a checkpoint with some tensors changed
rules.py         the language of key rules: what we call a tensor, and what another library calls it
"""
