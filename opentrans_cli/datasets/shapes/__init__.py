"""The embedded data set `shapes`: procedural scenes of coloured shapes on textured grounds.

classes.py   names, the seen/unseen split, captions
noise.py     counter-based random numbers and value noise, the same bits on every platform
textures.py  the six grounds
objects.py   eight outlines and five fills
colours.py   the colours in which label maps are shown
scene.py     one scene: image, label map, caption
dataset.py   scenes as a data set with splits
"""
