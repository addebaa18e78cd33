"""The laws of a bundle: what must be true of its files, its masks, its documents and its history."""
