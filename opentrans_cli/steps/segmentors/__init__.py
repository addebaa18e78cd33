"""Segmentors around a tower: built from a bundle or a published checkpoint, and used with words to get scores."""
