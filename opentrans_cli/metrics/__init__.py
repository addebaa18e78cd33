"""Segmentation quality: confusion counts and what follows from them."""
