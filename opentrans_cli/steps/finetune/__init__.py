"""finetune: train a segmentor whose pruned weights stay zero and whose heavy-tailed layers stay as they are."""
