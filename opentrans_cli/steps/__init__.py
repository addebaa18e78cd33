"""One verb per file: the public Python API. Each command of the command line calls one step and prints its result.

prune, analyze, transfer, finetune, evaluate, segment, inspect, verify, demo   the verbs
reporter.py, sources.py, segmentors.py, pixels.py, records.py                  what several verbs share
"""
