"""The steps: each command of the command line calls one function here and prints its result.

Each step has a folder with its options (`options`), its work (`run`, `plan`, `state`) and its result (`result`).
`segmentors/` builds a segmentor from a tower, a head and class names; all steps that read images share it. The files
directly in this folder may be used by every step: sources, records of steps, options by name, the files of a run and
training data. Two of them are not commands: `load` gives a source as tensors, and `apply` puts a subnet into any
training loop. Only this package combines the other packages.
"""
