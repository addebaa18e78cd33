"""Checkpoints of frameworks as their own code saved them -> segmentors of ours, every tensor accounted for.

What a checkpoint is, its names say, and how large, its shapes. A tensor is used, or not needed by a rule that says why,
or unknown, and then nothing is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opentrans_cli.checkpoints.file_kind import PLAIN_PICKLE, file_kind
from opentrans_cli.checkpoints.numpy_pickle import read_numpy_pickle
from opentrans_cli.checkpoints.weight_file import open_weight_file
from opentrans_cli.clip.architecture import infer_tower, meta_visual
from opentrans_cli.errors import SourceError, TransferError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.base import Framework
from opentrans_cli.frameworks.mask2former_names import HUGGINGFACE_RULES, MASK2FORMER_RULES, OWN_RULES
from opentrans_cli.frameworks.mask_decoder_keys import decoder_sizes
from opentrans_cli.frameworks.original_names import FCCLIP_RULES, HAN_RULES, TEXT_PREFIX
from opentrans_cli.frameworks.renaming import NameRule, Renaming, to_ours

_TOWER_PREFIX = "backbone."
_COUNTERS = "num_batches_tracked"  # of BatchNorms; frozen ones are saved without
_WRAPPED = "module."  # what DistributedDataParallel puts before every name
_GROUPS, _EXAMPLES = 4, 2  # told of a wall of mismatches

_EMBEDDINGS = tuple(f"classifier.{name}" for name in ("void_embedding", "non_object_embedding", "no_object"))

_NEVER_NEEDED = (
    NameRule("criterion.{rest}", None, "weights of the loss"),
    NameRule("pixel_mean", None, "preprocessing"),
    NameRule("pixel_std", None, "preprocessing"),
    NameRule("optimizer.{rest}", None, "state of training"),
    NameRule("scheduler.{rest}", None, "state of training"),
    NameRule("ema.{rest}", None, "state of training"),
    NameRule("ema_state.{rest}", None, "state of training"),
)

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
    tensors: Mapping[str, Tensor]  # of the segmentor; below `backbone.` the tower, perhaps none or without its pool
    text: Mapping[str, Tensor]  # of CLIP's text tower, by open_clip's names; perhaps none
    options: Mapping[str, Any]  # of the framework, read off the shapes
    unneeded: Mapping[str, tuple[str, ...]]  # original names, by why they are not needed

    @property
    def tower(self) -> dict[str, Tensor]:
        """The tower's tensors by their names inside it."""
        return {
            name.removeprefix(_TOWER_PREFIX): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(_TOWER_PREFIX)
        }


def read_original(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by their names in it: safetensors, torch's files, or a pickle of detectron2's zoo.

    Wrappers such as `model`, and a `module.` before all names, are taken off. Nothing that a file names is run. Raises
    SourceError for a file that is damaged, or holds no tensors, code, or values that are not finite.
    """
    if file_kind(path) == PLAIN_PICKLE:
        tensors = read_numpy_pickle(path)
    else:
        file = open_weight_file(path)
        tensors = {key: file.read(key) for key in file.headers}
        file.close()
    if all(key.startswith(_WRAPPED) for key in tensors):
        tensors = {key.removeprefix(_WRAPPED): tensor for key, tensor in tensors.items()}
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise SourceError(
                f"tensor holds NaN or infinite values: '{key}' in {path}; repair or replace the checkpoint"
            )
    return tensors


def load_original(framework: str, tensors: Mapping[str, Tensor]) -> Original:
    """`tensors` of one of the framework's checkpoints by our names.

    Raises TransferError if some are of no kind that is known: one line with counts and examples.
    """
    lineages = LINEAGES.get(framework)
    if lineages is None:
        raise TransferError(
            f"no checkpoints of this framework are known: '{framework}'; choose one of {', '.join(LINEAGES)}"
        )
    renamed = {name: _renamed(tensors, rules) for name, rules in lineages.items()}
    lineage = min(renamed, key=lambda name: len(renamed[name].unknown))
    best = renamed[lineage]
    if best.unknown:
        raise TransferError(
            f"not a checkpoint of {framework}, as far as known: {_wall({'unknown': best.unknown})}; "
            f"{_advice(framework, tensors)}"
        )
    ours = {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in best.tensors.items()}
    text = {key.removeprefix(TEXT_PREFIX): ours.pop(key) for key in list(ours) if key.startswith(TEXT_PREFIX)}
    return Original(framework, lineage, ours, text, _options(ours), best.unneeded)


def build_original(original: Original, visual: nn.Module | None = None) -> nn.Module:
    """The segmentor of a checkpoint, in eval mode.

    visual: a tower to build it around, changed in place, for checkpoints whose trunk is no CLIP tower; where they have
    one its values are taken. Raises TransferError if tensors are missing or of other shapes, or the tower is.
    """
    framework: Framework = FRAMEWORKS.load(original.framework)
    if visual is None:
        visual = _tower(original)
        with torch.device("meta"):  # no memory and no random numbers for what is replaced at once
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


def _renamed(tensors: Mapping[str, Tensor], rules: tuple[NameRule, ...]) -> Renaming:
    return to_ours(tensors, (*rules, *_NEVER_NEEDED))


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
    """The tower of a checkpoint on the meta device, with its pool even if that was left away."""
    tower = original.tower
    if not tower:
        raise TransferError(
            f"the checkpoint brings no CLIP tower: {original.lineage}; name one that its head is put on"
        )
    config = infer_tower(tower)
    if "attnpool.c_proj.weight" not in tower:  # Han et al. leave it away; how long embeddings are, the head tells
        lengths = (original.tensors[name].shape[1] for name in _EMBEDDINGS if name in original.tensors)
        config["embed_dim"] = next(lengths, config["embed_dim"])
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
    """Many names in one line: by verdict and first part of the name, with counts and examples."""
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
