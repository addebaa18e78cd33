"""Segmentation frameworks a CLIP tower can be put into.

keys.py         rules that rename tensors, and their whole-name, one-to-one application
base.py         what a framework is, what a segmentor promises, scores of classes with synonyms
options.py      a framework's options from names and text
readout.py      per-pixel embeddings against text embeddings
deeplabv3.py    dilated trunk, atrous pyramid, decoder; trained
maskclip.py     CLIP's own dense embedding; nothing is trained
"""

from __future__ import annotations

from opentrans_cli.catalog import Catalog

FRAMEWORKS = Catalog(
    "framework",
    {
        "deeplabv3": "opentrans_cli.frameworks.deeplabv3:DEEPLABV3",
        "maskclip": "opentrans_cli.frameworks.maskclip:MASKCLIP",
    },
)
