"""Segmentors around a tower: built from a bundle, read from a published checkpoint, given words, asked for scores."""
