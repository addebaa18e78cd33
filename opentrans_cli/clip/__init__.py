"""CLIP models: the only place that imports open_clip.

open_clip.py      loads the modules of open_clip one at a time
architecture.py   finds a configuration from tensors, lists the tensors of a tower, and builds it
source.py         names, local files and folders, the embedded model -> a loaded CLIP
layers.py         which weights of the image tower can be pruned; splits packed attention weights
channels.py       which channels belong together, and the narrower tower without the removed ones
features.py       feature maps, dilation, embeddings of pixels and masks
prefix.py         the lowest blocks of a ResNet: stores their outputs and uses them instead of computing them again
text.py           class names -> text embeddings; builds a text tower from a checkpoint without an image tower
preprocess.py     images and pixels -> the input of a tower
file_layers.py    the layers of any checkpoint file
key_tables/       what other libraries call a tower's tensors; finds towers in checkpoints
"""
