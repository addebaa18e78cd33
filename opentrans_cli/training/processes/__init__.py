"""One run in several processes: what they share, and how they stop together."""
