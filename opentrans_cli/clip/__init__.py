"""CLIP models: the only place that imports open_clip.

architecture.py   build a model from its configuration; read the configuration off a state dict
source.py         names, local files and folders, the embedded tiny model -> a loaded CLIP
layers.py         which weights of the visual tower can be pruned, packed attention taken apart, and their BatchNorms
channels.py       which channels belong together, so that a tower can be built narrower
compact.py        a channel-pruned tower as a narrower dense one
dense.py          feature maps, dilation, dense embeddings
attention_pool.py features pooled inside masks
stages.py         feature maps of ResNets and ConvNeXts, embeddings of masks
prefix.py         the lowest blocks of a ResNet: their outputs, and giving these instead of computing them
text_part.py      the text tower of a checkpoint alone
key_tables/       what other libraries call a tower's tensors, and how a checkpoint is recognised
text.py           class names -> text embeddings
preprocess.py     pixels -> normalised tensors

Files of weights, read without building a model:

weight_file.py, file_kind.py, file_layers.py, state_names.py    tensors one at a time, and which of them are layers
pickle_reader.py, torch_slots.py, mapped_slots.py               files of torch.save, nothing of which is run
numpy_pickle.py, numpy_trunk.py                                 detectron2's pickles; a trunk in numpy alone
tower_keys.py, tower_config.py                                  an image tower among their names, its configuration
foreign_masks.py, origin.py                                     what others pruned; what open_clip published
"""
