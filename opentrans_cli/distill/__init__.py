"""Distillation from the dense tower into the subnet while it is pruned."""
