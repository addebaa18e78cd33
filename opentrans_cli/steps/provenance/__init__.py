"""provenance: the recorded steps of a bundle, and a script that repeats them."""
