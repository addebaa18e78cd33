"""The layers of a checkpoint file, found by rules from the names and shapes of its tensors.

A floating-point tensor with four dimensions is a convolution, and one with two is a linear layer; the layer's name is
that of the tensor without `.weight`. The packed projection of an attention is three layers, as in `clip/layers.py`. A
weight pruned by `torch.nn.utils.prune` (`X.weight_orig` and `X.weight_mask`) is layer X, multiplied by its mask. A
weight outside the image tower's layers (embedding tables, text tower, decoder heads) is listed with the reason, and so
is a weight that is stored in a form that is not read here. Other tensors that cannot be layers are only counted.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from opentrans_cli.checkpoints.pruned import PrunedCheckpoint, PrunedTensor
from opentrans_cli.checkpoints.reader import SCALES, natural
from opentrans_cli.clip.architecture import infer_config, infer_vision
from opentrans_cli.clip.key_tables import OUTPUT_HEAD, TEXT_TOWER, TowerPlace, find_tower
from opentrans_cli.clip.layers import PACKED, PARTS
from opentrans_cli.errors import SourceError

EMBEDDING = "embedding table"
PROJECTION = "projection without a module"
COMPUTED = "parametrized, its weight is computed from it"
BUFFER = "attention mask"
MASK = "pruning mask"
CODED = "stored in a form that is not read here"
CODED_SCALE = "scales of quantised weights"

_TABLES = re.compile(
    r"(\w+_)?embeddings?|(abs_)?pos_embed|position_embed|(query|level)_embed|query_feat|relative_position_bias_table"
    r"|rel_pos_[hw]|(cls|class|mask|reg|dist)_token|embed_tokens|tok_embeddings|wte|wpe"
)
_CODED = re.compile(r"q?weight|weight_packed|weight_q|W_q|_data|_?qdata")
"""Last parts of the names that programs give to quantised weights."""
_COMPUTED = re.compile(r".*\.parametrizations\..+|.*weight_orig|.*\.weight_[gv]")


@dataclass(frozen=True)
class WeightLayer:
    """A weight whose spectrum can be computed, and where it is."""

    name: str  # inside the image tower; in other files the tensor's name without ".weight"
    shape: tuple[int, ...]  # (O, I, kh, kw) or (O, I)
    kind: str  # "conv", "linear", or "attention": one part of a packed projection
    skipped: str | None  # why it is not analysed by default; None: it is analysed
    tensor: str = ""  # its name in a file, before pruning
    rows: slice | None = None  # rows of the tensor; None: all of them


@dataclass(frozen=True)
class FileContents:
    """What a checkpoint file holds."""

    layers: tuple[WeightLayer, ...]
    counted: Mapping[str, int]  # how many tensors cannot be layers, by reason
    coded: tuple[str, ...]  # tensors with weights in a form that is not read
    tower: TowerPlace | None
    model_cfg: dict[str, Any] | None  # open_clip's, for a ResNet CLIP; without `text_cfg` if there is no text tower


def file_contents(tensors: Mapping[str, PrunedTensor]) -> FileContents:
    """Sort the tensors of a file, by their names before pruning, into layers and others; see the top of this module."""
    tower = find_tower(tensors)
    coded = tuple(key for key, tensor in tensors.items() if _coded(key, tensor))
    scaled = {key.rpartition(".")[0] for key in coded}
    counted: Counter[str] = Counter()
    inside: list[WeightLayer] = []
    outside: list[WeightLayer] = []
    for key, tensor in tensors.items():
        problem = tensor.problem or _no_matrix(tensor.shape)
        module, _, leaf = key.rpartition(".")
        if problem is None and (module in scaled or leaf in SCALES):
            problem = CODED_SCALE
        if problem is not None:
            counted[problem] += key not in coded
            continue
        name = None if tower is None else tower.inside(key)
        reason = None if tower is None else tower.reason(key)
        (outside if name is None else inside).extend(_layers(key, name or key, tensor, reason))
    if tower is not None and tower.layout.name != "clip":  # the file's own names may have another order than ours
        inside.sort(key=lambda layer: natural(layer.name))
    return FileContents(tuple(_distinct([*inside, *outside])), +counted, coded, tower, _config(tensors, tower))


def read_layer(file: PrunedCheckpoint, layer: WeightLayer) -> NDArray[Any]:
    """The weight of a layer, (O, I, kh, kw) or (O, I), floating point, exact zeros where it is pruned."""
    return file.weight(layer.tensor, layer.rows).reshape(layer.shape)


def _coded(key: str, tensor: PrunedTensor) -> bool:
    return tensor.problem is not None and len(tensor.shape) > 1 and _CODED.fullmatch(key.rpartition(".")[2]) is not None


def _no_matrix(shape: tuple[int, ...]) -> str | None:
    if len(shape) < 2:
        return "1-dimensional" if shape else "scalar"
    return None if math.prod(shape) else "empty"


def _layers(key: str, called: str, tensor: PrunedTensor, reason: str | None) -> Iterator[WeightLayer]:
    """The layers of the tensor `key`; `called`: its name inside the tower; `reason`: why it is not analysed."""
    owner, _, leaf = called.rpartition(".")
    shape, dot = tensor.shape, "." if owner else ""
    if leaf == PACKED and len(shape) == 2 and shape[0] == 3 * shape[1]:
        for number, part in enumerate(PARTS):
            rows = slice(number * shape[1], (number + 1) * shape[1])
            yield WeightLayer(f"{owner}{dot}{part}", (shape[1], shape[1]), "attention", reason, key, rows)
        return
    own = _own_reason(called, tensor)
    if reason is None or (own == EMBEDDING and reason == OUTPUT_HEAD):
        reason = own
    if own == EMBEDDING and len(shape) != 2:
        shape = (math.prod(shape[:-1]), shape[-1])
    elif len(shape) not in (2, 4):
        shape = (*shape[:2], 1, math.prod(shape[2:]))  # each kernel position is one matrix, whatever the layout
    name = owner if leaf == "weight" and owner else called
    yield WeightLayer(name, shape, "conv" if len(shape) == 4 else "linear", reason, key)


def _own_reason(name: str, tensor: PrunedTensor) -> str | None:
    """Why a tensor cannot be a layer, judged by itself alone; None if it may be one."""
    bare = not name.endswith(".weight")
    leaf = name.removesuffix(".weight").rpartition(".")[2]
    if tensor.values is None or (bare and leaf.endswith("weight_mask")):
        return MASK
    if tensor.mask is None and _COMPUTED.fullmatch(name):
        return COMPUTED
    if leaf in ("attn_mask", "causal_mask") and bare:
        return BUFFER
    if _TABLES.fullmatch(leaf) and (bare or len(tensor.shape) != 4):
        return EMBEDDING
    if bare and leaf in ("proj", "text_projection"):
        return PROJECTION
    return None if len(tensor.shape) in (2, 4) else f"{len(tensor.shape)}-dimensional"


def _distinct(layers: list[WeightLayer]) -> Iterator[WeightLayer]:
    """Layers of the tower under their names inside it, the others under those of the file.

    If two layers would have the same name, the second gets another one. The layers of a CLIP's text tower have the same
    names as those inside a ViT, so they get the prefix `text.`, as in newer CLIPs; other layers get their whole key.
    """
    taken: set[str] = set()
    for layer in layers:
        names = [layer.name, f"outside.{layer.name}"]
        if layer.rows is None:
            names.insert(1, layer.tensor)
        if layer.skipped == TEXT_TOWER:
            names.insert(1, f"text.{layer.name}")
        name = next((name for name in names if name not in taken), None)
        if name is None:
            raise SourceError(f"two tensors of one name in the checkpoint: '{layer.name}'; rename one")
        taken.add(name)
        yield replace(layer, name=name)


def _config(tensors: Mapping[str, PrunedTensor], tower: TowerPlace | None) -> dict[str, Any] | None:
    if tower is None or tower.kind.name != "ModifiedResNet":
        return None
    state = {key: tensor for key, tensor in tensors.items() if key.startswith(tower.parent)}
    try:
        return infer_config({key.removeprefix(tower.parent): tensor for key, tensor in state.items()})
    except (SourceError, KeyError, IndexError):
        pass  # no text tower, or no head
    try:
        return infer_vision({name: tensor for key, tensor in state.items() if (name := tower.inside(key)) is not None})
    except (SourceError, IndexError):
        return None
