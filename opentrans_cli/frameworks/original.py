"""Builds our segmentors from checkpoints that the frameworks' own code saved; every tensor is accounted for.

The tensor names tell what a checkpoint is, and the shapes how large it is. A tensor is used, or a rule says why it is
not needed. If any tensor is unknown, nothing is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.checkpoints.reader import Checkpoint
from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.checkpoints.state_names import shared_prefix
from opentrans_cli.clip.architecture import infer_tower, meta_visual
from opentrans_cli.clip.preprocess import OPENAI_MEAN, OPENAI_STD, Preprocess
from opentrans_cli.clip.source import LoadedClip
from opentrans_cli.clip.text import text_part
from opentrans_cli.errors import TransferError, did_you_mean
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import Framework
from opentrans_cli.frameworks.keys import Renaming, to_ours
from opentrans_cli.frameworks.mask_decoder import DecoderSizes
from opentrans_cli.frameworks.original_names import (
    FCCLIP_RULES,
    HAN_RULES,
    HUGGINGFACE_RULES,
    MASK2FORMER_RULES,
    NEVER_NEEDED,
    OWN_RULES,
    TEXT_PREFIX,
)

_TOWER_PREFIX = "backbone."
_COUNTERS = "num_batches_tracked"  # of BatchNorms; frozen ones are saved without it
_GROUPS, _EXAMPLES = 4, 2  # limits of a message about many mismatches
_OFFSETS_PER_HEAD = 3 * 4 * 2  # levels, points, coordinates

# Tensors that are as long as the embeddings of words.
_EMBEDDINGS = tuple(f"classifier.{name}" for name in ("void_embedding", "non_object_embedding", "no_object"))
_DEEPLAB, _DEEPLAB_EMBEDDING = "deeplabv3", "embedding.weight"  # (D, width, 1, 1)
_DEEPLAB_PARTS = (_TOWER_PREFIX, "pyramid.", "low_level.", "decoder.", "embedding.", "classifier.")
_OFFICIAL_DEEPLAB = "aspp.aspp1.atrous_conv.weight"

_SIZE = 224  # pixels; frameworks take any size
_CLIP = (OPENAI_MEAN, OPENAI_STD)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Mean and standard deviation of pixels in [0, 1] by lineage. Han et al. use those of ImageNet for CLIP's ResNet.
_PIXELS = {
    "FC-CLIP": _CLIP,
    "Han et al.": _IMAGENET,
    "Mask2Former of detectron2": _IMAGENET,
    "Mask2Former of transformers": _IMAGENET,
    "ours": _CLIP,
}

LINEAGES: Mapping[str, Mapping[str, tuple[NameRule, ...]]] = {
    "fcclip": {
        "FC-CLIP": FCCLIP_RULES,
        "ours": (*OWN_RULES, NameRule("clip_logit_scale", "clip_logit_scale", "scale")),
    },
    "han": {"Han et al.": HAN_RULES, "ours": OWN_RULES},
    "mask2former": {
        "Mask2Former of detectron2": MASK2FORMER_RULES,
        "Mask2Former of transformers": HUGGINGFACE_RULES,
        "ours": OWN_RULES,
    },
}
"""By framework and by where a checkpoint comes from: its names and ours."""


@dataclass(frozen=True)
class Original:
    """A checkpoint by our names, in float32."""

    framework: str
    lineage: str  # where it comes from, a key of LINEAGES[framework]
    tensors: Mapping[str, Tensor]  # of the segmentor; the tower, below `backbone.`, may be missing or have no pool
    text: Mapping[str, Tensor]  # of CLIP's text tower, by open_clip's names; may be empty
    options: Mapping[str, Any]  # of the framework, found from the shapes
    unneeded: Mapping[str, tuple[str, ...]]  # original names, by the reason why they are not needed

    @property
    def tower(self) -> dict[str, Tensor]:
        """The tower's tensors by their names inside it."""
        return {
            name.removeprefix(_TOWER_PREFIX): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(_TOWER_PREFIX)
        }

    @property
    def embedding(self) -> int | None:
        """Length of the embeddings of words; None for a head with a fixed list of classes, which uses none."""
        if self.framework == _DEEPLAB:
            return self.tensors[_DEEPLAB_EMBEDDING].shape[0]
        return next((self.tensors[name].shape[1] for name in _EMBEDDINGS if name in self.tensors), None)


def original_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names in it, without what all names begin with.

    Raises SourceError for values that are not finite.
    """
    shared = shared_prefix(checkpoint.tensors)
    return {name.removeprefix(shared): tensor for name, tensor in checkpoint.finite().items()}


def load_original(framework: str, tensors: Mapping[str, Tensor]) -> Original:
    """`tensors` of one of the framework's checkpoints by our names.

    Raises TransferError if some are of an unknown kind: one line with counts and examples.
    """
    if framework == _DEEPLAB:
        return _load_deeplab(tensors)
    lineages = LINEAGES.get(framework)
    if lineages is None:
        known = (*LINEAGES, _DEEPLAB)
        raise TransferError(
            f"no checkpoints of this framework are known: '{framework}'; choose one of {', '.join(known)}"
            f"{did_you_mean(framework, known)}"
        )
    renamed = {name: _renamed(tensors, rules) for name, rules in lineages.items()}
    lineage = min(renamed, key=lambda name: len(renamed[name].unknown))
    best = renamed[lineage]
    if best.unknown:
        raise TransferError(
            f"not a checkpoint of {framework}, as far as known: {_wall({'unknown': best.unknown})}; "
            f"{_advice(framework, tensors)}"
        )
    ours = _as_float(best.tensors)
    text = {key.removeprefix(TEXT_PREFIX): ours.pop(key) for key in list(ours) if key.startswith(TEXT_PREFIX)}
    return Original(framework, lineage, ours, text, _options(ours), best.unneeded)


def _load_deeplab(tensors: Mapping[str, Tensor]) -> Original:
    """A state dict of our DeepLabV3; the output stride is no tensor, and is taken to be the default of 16.

    OpenTrans's own DeepLabV3 is another network: its pyramid has the features of the trunk in place of the image level,
    and its trunk strides in convolutions. What is published of it (arXiv 2404.07448) does not determine its output, and
    no checkpoint of it was released, so it is refused rather than approximated.
    """
    if _OFFICIAL_DEEPLAB in tensors:
        raise TransferError(
            f"OpenTrans's own DeepLabV3 is another network than ours: the checkpoint has '{_OFFICIAL_DEEPLAB}'; "
            "put its trunk into a bundle with `opentrans import`, and train the head with `opentrans finetune`"
        )
    foreign = [key for key in tensors if not key.startswith(_DEEPLAB_PARTS)]
    if foreign or _DEEPLAB_EMBEDDING not in tensors:
        example = f"'{foreign[0][:100]}' is unknown" if foreign else f"'{_DEEPLAB_EMBEDDING}' is missing"
        raise TransferError(f"not a checkpoint of deeplabv3, as far as known: {example}; give a state dict of ours")
    residual = f"{_TOWER_PREFIX}attnpool.c_proj.weight" in tensors
    options = {"width": tensors[_DEEPLAB_EMBEDDING].shape[1], "clip_residual": residual}
    return Original(_DEEPLAB, "ours", _as_float(tensors), {}, options, {})


def _as_float(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in tensors.items()}


def build_original(original: Original, visual: nn.Module | None = None) -> nn.Module:
    """The segmentor of a checkpoint, in eval mode.

    visual: a tower to build it around, changed in place, for checkpoints whose trunk is no CLIP tower. A checkpoint
    with a CLIP tower gives its own values. Raises TransferError if tensors or the tower are missing or shapes differ.
    """
    framework: Framework = FRAMEWORKS.load(original.framework)
    if visual is None:
        visual = _tower(original)
        with torch.device("meta"):  # values that are replaced at once need no memory and no random numbers
            segmentor = framework.build(visual, original.options)
    else:
        segmentor = framework.build(visual, original.options)
    expected, given = segmentor.state_dict(), dict(original.tensors)
    if not original.tower:
        given |= {key: tensor for key, tensor in expected.items() if key.startswith(_TOWER_PREFIX)}
    for key in expected.keys() - given.keys():
        if key.endswith(_COUNTERS):
            given[key] = torch.zeros((), dtype=torch.int64)
    _check(original.framework, expected, given)
    segmentor.load_state_dict(given, assign=True)
    return segmentor.eval()


def original_preprocess(original: Original) -> Preprocess:
    """The preprocessing of images that the checkpoint expects."""
    mean, std = _PIXELS[original.lineage]
    return Preprocess(size=_SIZE, mean=mean, std=std)


def original_words(original: Original, *, source: str) -> LoadedClip:
    """The CLIP in the checkpoint that reads words; `source` is named in errors.

    The published ResNets are OpenAI's, whose text tower has QuickGELU; the ConvNeXts are LAION's, with GELU. Raises
    SourceError if the checkpoint has no text tower.
    """
    convnext = any(name.startswith("trunk.") for name in original.tower)
    return text_part(original.text, quick_gelu=not convnext, source=source)


def decoder_sizes(tensors: Mapping[str, Tensor], prefix: str = "decoder.") -> DecoderSizes:
    """The sizes of a MaskDecoder from the shapes of its tensors, below `prefix` by our names.

    Raises TransferError if a tensor that is needed for this is missing.
    """
    pixels, module = f"{prefix}pixel_decoder.", f"{prefix}transformer_module."
    first = f"{module}decoder.layers.0.fc1.weight"
    offsets = f"{pixels}encoder.layers.0.self_attn.sampling_offsets.bias"
    encoder_ffn, mask = f"{pixels}encoder.layers.0.fc1.weight", f"{pixels}mask_projection.weight"
    queries = f"{module}queries_features.weight"
    for name in (first, offsets, encoder_ffn, mask, queries):
        if name not in tensors:
            raise TransferError(f"the checkpoint has no whole mask decoder: '{name}' is missing; give another file")
    return DecoderSizes(
        width=tensors[queries].shape[1],
        mask_width=tensors[mask].shape[0],
        heads=tensors[offsets].shape[0] // _OFFSETS_PER_HEAD,
        queries=tensors[queries].shape[0],
        encoder_layers=_layers(tensors, f"{pixels}encoder.layers."),
        decoder_layers=_layers(tensors, f"{module}decoder.layers."),
        encoder_ffn=tensors[encoder_ffn].shape[0],
        decoder_ffn=tensors[first].shape[0],
    )


def _layers(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name[len(prefix) :].split(".")[0]) for name in tensors if name.startswith(prefix))


def _renamed(tensors: Mapping[str, Tensor], rules: tuple[NameRule, ...]) -> Renaming:
    return to_ours(tensors, (*rules, *NEVER_NEEDED))


def _options(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = decoder_sizes(ours)
    options: dict[str, Any] = {
        "queries": sizes.queries,
        "width": sizes.width,
        "encoder_layers": sizes.encoder_layers,
        "decoder_layers": sizes.decoder_layers,
    }
    fixed = ours.get("classifier.weight")  # a list of classes; the classifiers by text have names below
    return options if fixed is None else {**options, "classes": fixed.shape[0] - 1}


def _tower(original: Original) -> nn.Module:
    """The tower of a checkpoint on the meta device, with its pool even if the checkpoint has none."""
    tower = original.tower
    if not tower:
        raise TransferError(
            f"the checkpoint brings no CLIP tower: {original.lineage}; name one that its head is put on"
        )
    config = infer_tower(tower)
    if "attnpool.c_proj.weight" not in tower:  # Han et al. leave it out; the head gives the length of the embeddings
        config["embed_dim"] = original.embedding or config["embed_dim"]
    return meta_visual(config)


def _check(framework: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raises TransferError unless both have the same names and shapes."""
    wrong = {
        "missing": [key for key in expected if key not in given],
        "without a place": [key for key in given if key not in expected],
        "of another shape": [key for key in expected if key in given and expected[key].shape != given[key].shape],
    }
    if any(wrong.values()):
        raise TransferError(f"the checkpoint does not fit {framework}: {_wall(wrong)}; give a whole checkpoint of its")


def _wall(wrong: Mapping[str, Iterable[str]]) -> str:
    """Many names in one line, grouped by verdict and by the first part of the name, with counts and examples."""
    groups: dict[tuple[str, str], list[str]] = {}
    for verdict, keys in wrong.items():
        for key in keys:
            start = ".".join(re.sub(r"\d+", "N", part) for part in key.split(".")[:2])
            groups.setdefault((verdict, start), []).append(key)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    told = [
        f"{len(keys)} {verdict} ({', '.join(repr(key[:100]) for key in keys[:_EXAMPLES])}"
        f"{', ...' if len(keys) > _EXAMPLES else ''})"
        for (verdict, _), keys in ordered[:_GROUPS]
    ]
    left = sum(len(keys) for _, keys in ordered[_GROUPS:])
    return ", ".join([*told, f"and {left} more"] if left else told)


def _advice(framework: str, tensors: Mapping[str, Tensor]) -> str:
    others = [name for name in LINEAGES if name != framework]
    for other in others:
        for lineage, rules in LINEAGES[other].items():
            if lineage != "ours" and not _renamed(tensors, rules).unknown:
                return f"it is one of {other}"
    return "give a checkpoint as its own code saves it"
