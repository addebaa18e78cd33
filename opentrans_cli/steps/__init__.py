"""One verb per file: the public Python API. Each command of the command line calls one step and prints its result.

The verbs: prune, analyze, transfer, finetune, evaluate, segment, inspect, verify, diff, demo, push, pull;
import_masks (import), estimate (finetune --estimate), export and export_onnx (transfer --to open-clip and onnx),
transfer_checkpoint (transfer --checkpoint), curve (eval --curve), reproduce (provenance), pack_words
(segment --save-vocabulary), and attach, a subnet in anybody's training loop. Options stand in options, the papers'
settings in recipes and finetune_recipes.

Parts of prune:
    prune_plan, prune_run, prune_state, mask_choice    rounds and masks
    distilling, objectives, regions, feed, pixels      losses and images
Parts of analyze:
    spectrum_source, spectra                           weights and their spectra
    trust, frontier                                    what to rely on, what freezing saves
    alpha_record, alpha_outputs                        the report
Parts of finetune:
    finetune_run, finetune_settings                    the run, in phases; what the training loop is told
    freeze_choice                                      which layers are frozen
    training_data, feature_cache                       crops, and what a frozen prefix makes of them
    finetune_module, finetune_loss, finetune_terms     what is trained, by what, put together from the options
    region_kd, grounding                               losses beside the labels
    finetune_cost, segmentor_call, finetune_timing     its cost, counted and measured
    estimate_subject, estimate_paper                   the same without training
    training_log, line_file, event_files, step_status  what it tells
    interim                                            the mIoU in between
Parts of transfer:
    checkpoint_file, checkpoint_plan, tower_places     somebody's checkpoint, and what is done to each tensor
    trunk_parity, onnx_graph                           proofs of what was written
Parts of the other verbs:
    checkpoints, opened, words, picture_size, segments what segment and eval look with, and what they say
    flags, command_line                                a recorded step as a line of shell
    card, completion                                   for push and pull
    demo_pictures
What several share:
    sources, hub_source, subnet, rounds                what a verb is given
    segmentors, scoring                                segmentors, and their mIoU
    provenance, reporter, resume, target, numbers      what it writes and says
"""
