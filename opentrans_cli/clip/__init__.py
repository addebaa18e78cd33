"""CLIP models: the only place that imports open_clip.

open_clip.py      its modules, one at a time
architecture.py   configurations: of tensors, of names; the tensors a tower has; building it
source.py         names, local files and folders, the embedded model -> a loaded CLIP
layers.py         which weights of the image tower can be pruned; packed attention taken apart
channels.py       which channels belong together, and the narrower tower without some of them
features.py       feature maps, dilation, embeddings of pixels and masks
prefix.py         the lowest blocks of a ResNet: their outputs, and giving these instead of computing them
text.py           class names -> text embeddings; the text tower of a checkpoint alone
preprocess.py     pictures and pixels -> what a tower takes
file_layers.py    the layers of any checkpoint file
key_tables/       what other libraries call a tower's tensors, and the one finder of towers in checkpoints
"""
