"""Files on disk: written completely or not at all, read in pieces, hashed, and checked before use."""
