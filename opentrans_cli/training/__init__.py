"""Training: a loop that knows no model, what it writes down, what it leaves alone, and what it costs.

loop.py            steps, and what happens between them; resumes bit for bit
step.py            one step: parts of a batch, gradients, loss terms of all processes
settings.py        what a run is asked to do
schedules.py       learning rates
optimizer.py       AdamW and SGD: what decays, what learns slower, how long gradients may be
precision.py       half precision, and the scale of a float16 loss
ema.py             averages of the parameters
generators.py      what is drawn, as a function of seed and step
run_state.py       everything a run is made of, saved and restored
checkpoint.py      the state of a run in one safetensors file
running_statistics.py  those of BatchNorms, for the case that a step fails
freezing.py        layers whose parameters and running statistics stay as they are
losses.py          cross-entropy over labelled pixels
cost.py            multiply-accumulates of training, by layer and by part
attention_cost.py  the part of them that attention has
accounting.py      the same as the paper counts it
device.py          which device a run works on
distributed.py     the processes of one run, as torchrun starts them
batchnorm.py       BatchNorm over the batches of all processes
dropout.py         dropout that is the same for any number of processes and parts
sharding.py        parameters of which every process keeps a part
failures.py        how several processes end together, and tell why once
"""
