"""prune: remove the least important weights in rounds, and distil the dense tower into what is left."""
