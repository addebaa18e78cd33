"""Training: a loop that knows no model, what it writes down, what it leaves alone, and what it costs.

loop.py           steps, and what happens between them; resumes bit for bit, and ends when it is told to
step.py           one step: parts of a batch, gradients, loss terms of all processes, what is drawn
settings.py       what a run is asked to do
optimizer.py      AdamW and SGD: learning rates, what decays, what learns slower, how long gradients may be
run_state.py      everything a run is made of, saved and restored: averages and the scale of a float16 loss as well
state_file.py     the state of a run in one safetensors file
freezing.py       layers whose parameters and running statistics stay as they are
feature_cache.py  features of frozen layers on disk
device.py         which device a run works on
costs/            what training multiplies, by formula, by torch's counter and as the paper counts; measured seconds
processes/        several processes of one run: shares, shards, BatchNorm and dropout of the whole batch, common ends
"""
