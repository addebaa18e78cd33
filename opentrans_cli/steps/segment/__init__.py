"""segment: find the user's words in the user's pictures, as label maps, masks and overlays."""
