"""Distillation from the dense tower into the subnet while it is pruned.

image.py         distance of the embeddings of whole images; no labels
text_guided.py   the paper's loss: embeddings of regions, and their affinities with the class names
regions.py       regions of labelled images: pictures for the teacher, embeddings from the student
loop.py          optimizer steps with the masks held; the learning rate
"""
