"""CLIP models: the only place that imports open_clip.

architecture.py   build a model from its configuration; read the configuration off a state dict
source.py         names, local files and folders, the embedded tiny model -> a loaded CLIP
layers.py         which tensors of the visual tower are convolutions, and which BatchNorm belongs to which
dense.py          feature maps, dilation, dense embeddings
text.py           class names -> text embeddings
preprocess.py     pixels -> normalised tensors
"""
