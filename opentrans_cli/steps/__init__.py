"""The verbs: each command of the command line calls one function here and prints its result.

A verb has a room of its own, and in it what it takes (`options`), how it goes (`run`, `plan`, `state`) and what it
found (`result`). `segmentors/` builds a tower, a head and words into something that labels pictures; the verbs that
look at pictures share it. What stands beside the rooms, in the foyer, every verb may use: where a source comes from,
how a step is recorded, options by name, the files of a run, training data, and what is no command: `load`, a source as
tensors, and `apply`, a subnet in anybody's training loop. Only here are the parts put together.
"""
