"""report: one HTML page of a bundle, or of what a demo made."""
