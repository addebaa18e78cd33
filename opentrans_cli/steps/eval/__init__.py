"""eval: mIoU, parameters, MACs and measured time of a segmentor, also along the rounds of a pruning."""
