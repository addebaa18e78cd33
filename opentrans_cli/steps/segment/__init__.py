"""segment: own words on own pictures, as label maps, masks and overlays."""
