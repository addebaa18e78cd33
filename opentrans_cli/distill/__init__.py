"""Distillation from the dense tower into the subnet during pruning, and a loss from captions for fine-tuning.

image.py         distance of the embeddings of whole images; no labels
text_guided.py   the paper's loss: embeddings of regions, and their affinities with the class names
regions.py       regions of labelled images: pictures for the teacher, embeddings from the student
grounding.py     matches words of captions with queries of their image; only in fine-tuning
"""
