"""Segmentation frameworks a CLIP tower can be put into.

keys.py         key rules applied to the tensors of a tower, and of published checkpoints
base.py         what a framework is, its options, what a segmentor promises, scores of classes with synonyms
readout.py      per-pixel embeddings against text embeddings
deeplabv3.py    dilated trunk, atrous pyramid, decoder; trained
maskclip.py     CLIP's own dense embedding; nothing is trained
han.py          Mask2Former with queries classified by text, after Han et al.; trained
fcclip.py       masks from a frozen trunk, classified by training and by CLIP; trained
mask2former.py  Mask2Former itself, for a fixed list of classes or for words; trained

Modules of the frameworks with query masks:

query_segmentor.py                     what they share: options, classes of queries from text, scores of pixels
mask_decoder.py, deformable.py         pixel decoder and masked attention
mask_inference.py, mask_loss.py        segmentations from query masks, and the training loss
templates.py                           the prompts of the frameworks that have their own
original_names.py                      tensor names of published checkpoints
original.py                            segmentors built from those checkpoints; every tensor is accounted for
"""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

FRAMEWORKS = Catalog(
    "framework",
    {
        "deeplabv3": "opentrans_cli.frameworks.deeplabv3:DEEPLABV3",
        "han": "opentrans_cli.frameworks.han:HAN",
        "fcclip": "opentrans_cli.frameworks.fcclip:FCCLIP",
        "mask2former": "opentrans_cli.frameworks.mask2former:MASK2FORMER",
        "maskclip": "opentrans_cli.frameworks.maskclip:MASKCLIP",
    },
)
