"""opentrans: prune a CLIP image encoder once, publish the subnet, use it in any segmentation framework."""

__version__ = "0.1.0"
