"""Bytes on disk: written whole or not at all, read by pieces, hashed, and checked before they are believed."""
