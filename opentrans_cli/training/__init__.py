"""Training: a loop that works for any model, its saved state, frozen layers, and the costs.

loop.py           steps, and the work between them; resumes bit for bit, and stops on a signal or a time limit
step.py           one step: parts of a batch, gradients, loss terms of all processes, random numbers
settings.py       the settings of a run
optimizer.py      AdamW and SGD: learning rates, weight decay, parameter groups, gradient clipping
run_state.py      the whole state of a run, saved and restored, with averages and the scale of a float16 loss
state_file.py     the state of a run in one safetensors file
freezing.py       layers whose parameters and running statistics stay as they are
feature_cache.py  features of frozen layers on disk
device.py         which device a run works on
costs/            multiply-accumulates by formula, by torch's counter and as the paper counts; measured seconds
processes/        several processes of one run: shares, shards, BatchNorm and dropout of the whole batch, common end
"""
