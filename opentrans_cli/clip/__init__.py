"""CLIP models: the only place that imports open_clip.

architecture.py   build a model from its configuration; read the configuration off a state dict
source.py         names, local files and folders, the embedded tiny model -> a loaded CLIP
layers.py         which weights of the visual tower can be pruned, packed attention taken apart, and their BatchNorms
channels.py       which channels belong together, so that a tower can be built narrower
compact.py        a channel-pruned tower as a narrower dense one
dense.py          feature maps, dilation, dense embeddings
attention_pool.py features pooled inside masks
stages.py         feature maps of ResNets and ConvNeXts, embeddings of masks
text_part.py      the text tower of a checkpoint alone
key_tables/       what other libraries call a tower's tensors, and how a checkpoint is recognised
text.py           class names -> text embeddings
preprocess.py     pixels -> normalised tensors
"""
