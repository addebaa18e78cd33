"""One verb per file: the public Python API. Each command of the command line calls one step and prints its result.

prune, analyze, transfer, finetune, evaluate, segment, inspect, verify, demo   the verbs
import_masks                                                                   import: what others pruned
attach                                                                         a subnet in anybody's training loop
export, curve                                                                  transfer --to open-clip, eval --curve
options, recipes                                                               what a verb may be asked for
prune_plan, prune_run, prune_state, mask_choice                                parts of prune: rounds and masks
distilling, objectives, regions, feed, pixels                                  parts of prune: losses and images
finetune_run, training_data, demo_pictures                                     parts of finetune and demo
interim, training_log, line_file, event_files, step_status                     parts of finetune: what it tells
frontier                                                                       part of analyze: what freezing saves
sources, rounds, segmentors, scoring, provenance, reporter, resume, target     what several verbs share
"""
