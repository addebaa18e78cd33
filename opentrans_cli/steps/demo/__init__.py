"""demo: the whole method on the embedded CLIP and drawn scenes, with its controls and pictures."""
