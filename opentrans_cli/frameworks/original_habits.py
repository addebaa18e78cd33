"""What published code takes for granted beside the tensors: how pixels come in, and how words are read."""

from __future__ import annotations

from opentrans_cli.clip.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import text_part
from opentrans_cli.frameworks.original import Original

_CLIP = (OPENAI_MEAN, OPENAI_STD)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIZE = 224  # pixels; frameworks take any size

# Mean and standard deviation of pixels in [0, 1] by lineage. Han et al. feed CLIP's ResNet with those of ImageNet.
_PIXELS = {
    "FC-CLIP": _CLIP,
    "Han et al.": _IMAGENET,
    "Mask2Former of detectron2": _IMAGENET,
    "Mask2Former of transformers": _IMAGENET,
    "ours": _CLIP,
}


def original_preprocess(original: Original) -> Preprocess:
    """How the checkpoint wants its images."""
    mean, std = _PIXELS[original.lineage]
    return Preprocess(size=_SIZE, mean=mean, std=std)


def original_words(original: Original, *, source: str) -> LoadedClip:
    """The CLIP in the checkpoint that reads words; `source` is named in errors.

    The published ResNets are OpenAI's, whose text tower has QuickGELU; the ConvNeXts are LAION's, with GELU. Raises
    SourceError if the checkpoint has no text tower.
    """
    convnext = any(name.startswith("trunk.") for name in original.tower)
    return text_part(original.text, quick_gelu=not convnext, source=source)
