"""Distillation from the dense tower into the subnet while it is pruned, and what fine-tuning learns beside labels.

image.py         distance of the embeddings of whole images; no labels
text_guided.py   the paper's loss: embeddings of regions, and their affinities with the class names
regions.py       regions of labelled images: pictures for the teacher, embeddings from the student
grounding.py     words of captions find the queries of their image; in fine-tuning alone
"""
