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
run_cost.py        the receipt of a run: phases, a cached prefix, and its full twin
flop_check.py      the same by torch's own counter
accounting.py      the same as the paper counts it
paper_figures.py   what the paper published on its costs
step_timing.py     measured seconds of two steps, in turn
device.py          which device a run works on
distributed.py     the processes of one run, as torchrun starts them
batchnorm.py       BatchNorm over the batches of all processes
dropout.py         dropout that is the same for any number of processes and parts
sharding.py        parameters of which every process keeps a part
stopping.py        the signal that asks a run to end
failures.py        how several processes end together, and tell why once
"""
