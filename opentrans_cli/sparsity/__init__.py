"""Which weights are kept: importance, patterns, masks and schedules."""
