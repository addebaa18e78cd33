"""finetune --estimate: what a training would cost, counted without training."""
