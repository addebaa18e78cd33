"""The layers of a checkpoint file, by rule from the names and shapes of its tensors.

A floating-point tensor of four dimensions is a convolution, one of two a linear layer, and its name goes without
`.weight`. The packed projection of an attention is three layers, as in `clip/layers.py`. A weight under
`torch.nn.utils.prune` (`X.weight_orig` and `X.weight_mask`) is layer X with the mask multiplied in. What is no layer
(embedding tables, text tower, decoder heads) is listed with the reason; what can be none is counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from opentrans_cli.checkpoints.weight_file import Header, WeightFile
from opentrans_cli.clip.architecture import infer_config, infer_vision
from opentrans_cli.clip.layers import PACKED, PARTS
from opentrans_cli.clip.tower_keys import OUTPUT_HEAD, TEXT_TOWER, TowerPlace, find_tower
from opentrans_cli.errors import SourceError

EMBEDDING = "embedding table"
PROJECTION = "projection without a module"
COMPUTED = "parametrized, its weight is computed from it"
BUFFER = "attention mask"
MASK = "pruning mask"

_TABLES = re.compile(
    r"(\w+_)?embeddings?|(abs_)?pos_embed|position_embed|(query|level)_embed|query_feat|relative_position_bias_table"
    r"|rel_pos_[hw]|(cls|class|mask|reg|dist)_token|embed_tokens|tok_embeddings|wte|wpe"
)
_COMPUTED = re.compile(r".*\.parametrizations\..+|.*weight_orig|.*\.weight_[gv]")


@dataclass(frozen=True)
class FileLayer:
    """A layer of a file, and where its weight is."""

    name: str
    shape: tuple[int, ...]  # as `read_layer` gives it: (O, I, kh, kw) or (O, I)
    kind: str  # "conv", "linear", "attention"
    skipped: str | None  # why it is not analysed by default; None: it is
    key: str  # of its tensor in the file
    mask: str | None = None  # key of the pruning mask to multiply in
    rows: slice | None = None  # of the tensor; None: all


@dataclass(frozen=True)
class FileContents:
    """What a checkpoint file holds."""

    layers: tuple[FileLayer, ...]
    counted: Mapping[str, int]  # tensors that can be no layer, by reason
    tower: TowerPlace | None
    model_cfg: dict[str, Any] | None  # open_clip's, of a ResNet CLIP; without `text_cfg` where no text tower is


@dataclass(frozen=True)
class _Entry:
    """A tensor as the module had it: with its mask, under the name it would have without pruning."""

    name: str
    shape: tuple[int, ...]
    key: str
    mask: str | None


def file_contents(headers: Mapping[str, Header]) -> FileContents:
    """Sort the tensors of a file into layers and others; see the top of this module."""
    counted: Counter[str] = Counter()
    entries: list[_Entry] = []
    masks = {f"{key.removesuffix('_orig')}_mask" for key in headers if key.endswith("_orig")}
    for key, header in headers.items():
        problem = header.problem or _no_matrix(header.shape)
        if problem is not None and key not in masks:
            counted[problem] += 1
        elif key not in masks:
            entries.append(_entry(key, header.shape, headers))
    everything = {_entry(key, header.shape, headers).name: header.shape for key, header in headers.items()}
    tower = find_tower(everything)
    layers = [layer for entry in entries for layer in _layers(entry, tower)]
    return FileContents(tuple(_distinct(layers, tower)), counted, tower, _config(everything, tower))


def read_layer(file: WeightFile, layer: FileLayer) -> Tensor:
    """The weight of a layer, (O, I, kh, kw) or (O, I), in its stored dtype, exact zeros where it is pruned."""
    weight = file.read(layer.key, layer.rows)
    if layer.mask is not None:
        weight = weight * file.read(layer.mask, layer.rows).to(weight.dtype)
    return weight.reshape(layer.shape)


def _no_matrix(shape: tuple[int, ...]) -> str | None:
    if len(shape) < 2:
        return "1-dimensional" if shape else "scalar"
    return None if math.prod(shape) else "empty"


def _entry(key: str, shape: tuple[int, ...], headers: Mapping[str, Header]) -> _Entry:
    name = key.removesuffix("_orig")
    mask = f"{name}_mask"
    if name != key and mask in headers and headers[mask].shape == shape:
        return _Entry(name, shape, key, mask)
    return _Entry(key, shape, key, None)


def _layers(entry: _Entry, tower: TowerPlace | None) -> Iterator[FileLayer]:
    owner, _, leaf = entry.name.rpartition(".")
    shape, dot = entry.shape, "." if owner else ""
    reason = tower.reason(entry.name) if tower is not None else None
    if leaf == PACKED and len(shape) == 2 and shape[0] == 3 * shape[1]:
        for number, part in enumerate(PARTS):
            rows = slice(number * shape[1], (number + 1) * shape[1])
            square = (shape[1], shape[1])
            yield FileLayer(f"{owner}{dot}{part}", square, "attention", reason, entry.key, entry.mask, rows)
        return
    name = owner if leaf == "weight" and owner else entry.name
    own = _own_reason(entry, name)
    if reason is None or (own == EMBEDDING and reason == OUTPUT_HEAD):
        reason = own
    if own == EMBEDDING and len(shape) != 2:
        shape = (math.prod(shape[:-1]), shape[-1])
    elif len(shape) not in (2, 4):
        shape = (*shape[:2], 1, math.prod(shape[2:]))  # every kernel position is one matrix, however they are laid out
    yield FileLayer(name, shape, "conv" if len(shape) == 4 else "linear", reason, entry.key, entry.mask)


def _own_reason(entry: _Entry, name: str) -> str | None:
    """Why a tensor is no layer, whatever is around it; None if it may be one."""
    leaf, bare = name.rpartition(".")[2], not entry.name.endswith(".weight")
    if entry.mask is None and _COMPUTED.fullmatch(entry.key):
        return COMPUTED
    if bare and leaf.endswith("weight_mask"):
        return MASK
    if leaf in ("attn_mask", "causal_mask") and bare:
        return BUFFER
    if _TABLES.fullmatch(leaf) and (bare or len(entry.shape) != 4):
        return EMBEDDING
    if bare and leaf in ("proj", "text_projection"):
        return PROJECTION
    return None if len(entry.shape) in (2, 4) else f"{len(entry.shape)}-dimensional"


def _distinct(layers: list[FileLayer], tower: TowerPlace | None) -> Iterator[FileLayer]:
    """Layers of the tower under their names inside it, the others under those of the file.

    Where two would be called the same, the second has another name: the text tower of a CLIP, whose layers are called
    like those inside a ViT, goes by `text.` as in newer CLIPs, other tensors by their whole key.
    """
    taken: set[str] = set()
    inside = {id(layer): tower.inside(layer.name) if tower is not None else None for layer in layers}
    for layer in sorted(layers, key=lambda layer: inside[id(layer)] is None):
        names = [inside[id(layer)] or layer.name, f"outside.{layer.name}"]
        if layer.rows is None:
            names.insert(1, layer.key)
        if layer.skipped == TEXT_TOWER:
            names.insert(1, f"text.{layer.name}")
        name = next((name for name in names if name not in taken), None)
        if name is None:
            raise SourceError(f"two tensors of one name in the checkpoint: '{layer.name}'; rename one")
        taken.add(name)
        yield replace(layer, name=name)


def _config(shapes: Mapping[str, tuple[int, ...]], tower: TowerPlace | None) -> dict[str, Any] | None:
    if tower is None or tower.kind.name != "ModifiedResNet":
        return None
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items() if key.startswith(tower.parent)}
    try:
        return infer_config({key.removeprefix(tower.parent): tensor for key, tensor in state.items()})
    except (SourceError, KeyError, IndexError):
        pass  # no text tower, or no head
    try:
        return infer_vision({name: tensor for key, tensor in state.items() if (name := tower.inside(key)) is not None})
    except (SourceError, IndexError):
        return None
