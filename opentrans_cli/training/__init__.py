"""Training: a loop that knows no model, what it writes down, what it leaves alone, and what it costs.

loop.py            AdamW with schedules; resumes bit for bit
settings.py        what a run is asked to do; learning rates
checkpoint.py      the state of a run in one safetensors file
freezing.py        layers whose parameters and running statistics stay as they are
losses.py          cross-entropy over labelled pixels
cost.py            multiply-accumulates of training, by layer and by part
attention_cost.py  the part of them that attention has
accounting.py      the same as the paper counts it
device.py          which device a run works on
distributed.py     the processes of one run, as torchrun starts them
batchnorm.py       BatchNorm over the batches of all processes
failures.py        how several processes end together, and tell why once
"""
