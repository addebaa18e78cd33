"""Checkpoints that other programs pruned, tensor by tensor, under the names they had before pruning.

opentrans            the paper's `seg_backbone_imp*.pth`: as torch-prune, inside the dicts `first_conv`, `backbone`
                     and `sem_seg_head`
torch-prune          `X_orig` and `X_mask` of torch.nn.utils.prune, or `X.weight_mask` with or without `X.weight`, or a
                     dict of masks beside the weights: {"state_dict": ..., "masks": {"X": ...}}
torch-ao             `M.parametrizations.weight.original` and `.0.mask` of torch.ao.pruning, which leaves the masks out
                     of a state dict: they may be in the sparsifier's own state that is saved beside it
nncf                 `M.weight` and its mask: `M.pre_ops.N.op.` with `_binary_mask`, with `_mask` (logits, above 0 is
                     kept) or with `_binary_filter_pruning_mask` (one number a row); since NNCF 3
                     `__nncf_hooks.post_hooks.PARTS:OF:M:weight__0.0.` with `binary_mask` or `mask` (logits)
compressed-tensors   the bitmasks of compressed-tensors up to 0.14 (sparse-bitmask, sparse-24-bitmask):
                     `M.compressed`, `M.bitmask`, `M.shape` (and `M.row_offsets`) for `M.weight`; bits along the
                     last axis, the lowest first; their values may be quantised as in `quantised.py`
masks                masks alone, under the names of the weights: every matrix is made of 0 and 1
zeros                a plain checkpoint: weights that are 0.0 or -0.0 were pruned (a mask times a negative weight
                     gives -0.0)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.checkpoints.quantised import Quantised, find_quantised, quantised_as, read_quantised, scaled
from opentrans_cli.checkpoints.reader import SCALES, Checkpoint, StoredTensor, open_checkpoint
from opentrans_cli.checkpoints.rules import NameRule
from opentrans_cli.errors import MaskError, OptionError, SourceError, unknown

OPENTRANS, TORCH_PRUNE, TORCH_AO, NNCF = "opentrans", "torch-prune", "torch-ao", "nncf"
COMPRESSED, MASKS, ZEROS = "compressed-tensors", "masks", "zeros"
FORMATS = (OPENTRANS, TORCH_PRUNE, TORCH_AO, NNCF, COMPRESSED, MASKS, ZEROS)

_OFFICIAL_PARTS = {"first_conv", "backbone"}
_PACKED = ("compressed", "bitmask", "shape", "row_offsets")
_MOST_DIMENSIONS = 8
_NNCF_MASK = re.compile(
    r"(?P<module>.+)\.pre_ops\.\d+\.op\.(_binary_mask|_binary_filter_pruning_mask|_mask)"
    r"|(?P<above>.*)__nncf_hooks\.post_hooks\.(?P<below>.+)__\d+\.\d+\.(binary_mask|mask)"
)
_NNCF_OWN = re.compile(r"(.+\.)?__nncf_hooks\..+|.+\.(pre|post)_ops\.\d+\.op\..+")
"""What NNCF adds to a model: masks, and numbers of quantisers that are shaped like weights."""

# For each format, the name of a mask and the name of the values that it belongs to.
_MASKS = {
    TORCH_PRUNE: (NameRule("{name*}", "{name*}_mask"), NameRule("{name*}", "{name*}_orig")),
    TORCH_AO: (
        NameRule("{module*}.{leaf}", "{module*}.parametrizations.{leaf}.0.mask"),
        NameRule("{module*}.{leaf}", "{module*}.parametrizations.{leaf}.original"),
    ),
}


@dataclass(frozen=True)
class PrunedTensor:
    """Where a tensor is in the file, and its shape before pruning."""

    shape: tuple[int, ...]
    values: str | None = None  # name of its values in the file; None: the file has only its mask
    mask: str | None = None  # name of its mask, one number per weight, or of its bits if packed
    logits: bool = False  # the mask is not made of 0 and 1: what is above 0 is kept
    packed: bool = False  # the file holds only the kept values, one after the other
    problem: str | None = None  # why it cannot be a weight, see StoredTensor
    quantised: Quantised | None = None  # how its values are computed, if the file has them in another form


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A checkpoint with the tensor names from before pruning, and its masks; a plain checkpoint has no masks."""

    file: Checkpoint
    format: str  # one of FORMATS
    tensors: Mapping[str, PrunedTensor]  # by name before pruning

    @property
    def path(self) -> Path:
        """The file."""
        return self.file.path

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor that can be read, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items() if _readable(self.file, tensor)}

    @property
    def masked(self) -> frozenset[str]:
        """Names of the tensors that have a mask of their own in the file."""
        return frozenset(name for name, tensor in self.tensors.items() if tensor.mask is not None)

    def mask(self, name: str, rows: slice | None = None) -> NDArray[np.bool_] | None:
        """Which values of a tensor, or of some of its rows, are kept; None if the file has no mask for it.

        Raises MaskError for a mask that is not made of 0 and 1, SourceError for a file that cannot be read.
        """
        tensor = self.tensors[name]
        if tensor.mask is None:
            return None
        if tensor.packed:
            return _rows(self._bits(name, tensor), rows)
        mask = self.file.numbers(tensor.mask, rows)
        if mask.ndim < len(tensor.shape):
            mask = np.broadcast_to(mask.reshape(-1, *[1] * (len(tensor.shape) - 1)), (len(mask), *tensor.shape[1:]))
        if tensor.logits:
            return mask > 0
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MaskError(f"mask is not made of 0 and 1: '{tensor.mask}' in {self.path}; export it again")
        return mask != 0

    def values(self, name: str, rows: slice | None = None) -> NDArray[Any] | None:
        """A tensor, or some rows, without its mask, floats as float32 or float64; None if the file has only its mask.

        Packed values are unpacked, with zeros where they are pruned. Raises SourceError for a file that cannot be read.
        """
        tensor = self.tensors[name]
        if tensor.values is None:
            return None
        if not tensor.packed and tensor.quantised is not None:
            return _rows(read_quantised(self.file, tensor.quantised), rows)
        if not tensor.packed:
            return self.file.numbers(tensor.values, rows)
        kept, bits = self.file.numbers(tensor.values).reshape(-1), self._bits(name, tensor)
        if np.count_nonzero(bits) != kept.size:
            raise SourceError(
                f"bitmask and values disagree: '{name}' in {self.path}, {np.count_nonzero(bits)} bits and {kept.size} "
                "values; download or export it again"
            )
        values = np.zeros(tensor.shape, kept.dtype)
        values[bits] = kept
        return _rows(values if tensor.quantised is None else scaled(self.file, tensor.quantised, values), rows)

    def weight(self, name: str, rows: slice | None = None) -> NDArray[Any]:
        """A tensor, or some rows, as float32 or float64, with zeros where it is pruned; the mask if there is no more.

        Raises the same errors as `mask` and `values`.
        """
        mask, values = self.mask(name, rows), self.values(name, rows)
        weight = mask if values is None else values if mask is None else masked(values, mask)
        assert weight is not None
        return weight if np.issubdtype(weight.dtype, np.floating) else weight.astype(np.float32)

    def _bits(self, name: str, tensor: PrunedTensor) -> NDArray[np.bool_]:
        assert tensor.mask is not None
        packed = self.file.array(tensor.mask)
        if packed.dtype != np.uint8:
            raise SourceError(f"bitmask is not of bytes: '{name}' in {self.path}; download or export it again")
        return np.unpackbits(packed, axis=-1, count=tensor.shape[-1], bitorder="little").view(np.bool_)


def masked(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """`values` with zeros where the mask, of the same shape, is False."""
    return np.where(mask, values, np.zeros((), values.dtype))


def open_pruned(path: Path, format: str | None = None) -> PrunedCheckpoint:
    """Open a checkpoint, pruned or not; the format is `format`, one of FORMATS, or is found from the content.

    Raises OptionError for an unknown format, SourceError if the file cannot be read or has another format.
    """
    if format is not None and format not in FORMATS:
        raise OptionError(unknown("format", format, FORMATS))
    file = open_checkpoint(path)
    file = replace(file, tensors={**file.tensors, **file.masks})
    masks = {COMPRESSED: dict(_compressed(file))}
    masks |= {name: dict(_masked(file.tensors, name)) for name in (*_MASKS, NNCF)}
    if format == MASKS or (format is None and not any(masks.values())):
        masks[MASKS] = _masks_alone(file)
    chosen = next((name for name, found in masks.items() if found), ZEROS) if format is None else format
    if chosen == TORCH_PRUNE and format is None and {key.split(".")[0] for key in file.tensors} >= _OFFICIAL_PARTS:
        chosen = OPENTRANS
    found = masks.get(TORCH_PRUNE if chosen == OPENTRANS else chosen, {})
    if chosen != ZEROS and not found:
        raise SourceError(f"no mask by the names of {chosen}: {path}; leave --format out")
    quantised, taken_too = find_quantised(file)
    found |= {
        name: PrunedTensor(weight.shape, weight.codes, quantised=weight)
        for name, weight in quantised.items()
        if name not in found
    }
    taken = {key for tensor in found.values() for key in (tensor.values, tensor.mask)} | taken_too
    if chosen == COMPRESSED:
        taken |= {name.removesuffix("weight") + part for name in found for part in (*_PACKED, *SCALES)}
    taken |= found.keys() | {key for key in file.tensors if _NNCF_OWN.fullmatch(key)}
    plain = {key: PrunedTensor(t.shape, key, problem=t.problem) for key, t in file.tensors.items() if key not in taken}
    place = {key: number for number, key in enumerate(file.tensors)}
    tensors = sorted({**plain, **found}.items(), key=lambda item: place[item[1].values or item[1].mask or ""])
    return PrunedCheckpoint(file, chosen, dict(tensors))


def _readable(file: Checkpoint, tensor: PrunedTensor) -> bool:
    key = tensor.values or tensor.mask
    return key is not None and file.tensors[key].readable


def _rows(tensor: NDArray[Any], rows: slice | None) -> NDArray[Any]:
    return tensor if rows is None else tensor[rows]


def _masked(tensors: Mapping[str, StoredTensor], format: str) -> Iterator[tuple[str, PrunedTensor]]:
    """The tensors with a mask. A buffer such as `attn_mask` is not a mask, since there is no `attn_orig`."""
    for key, mask in tensors.items():
        name, values = _nncf_names(key) if format == NNCF else _names(key, *_MASKS[format])
        lenient = format == TORCH_PRUNE and name.endswith("weight")
        original = next((one for one in (values, name if format == TORCH_PRUNE else "") if one in tensors), None)
        shape = None if original is None else tensors[original].shape
        if original is not None and shape is not None and mask.shape in (shape, shape[:1] if format == NNCF else shape):
            logits = format == NNCF and key.endswith(("._mask", ".mask"))
            yield name, PrunedTensor(shape, original, key, logits=logits, problem=tensors[original].problem)
        elif original is None and lenient:
            yield name, PrunedTensor(mask.shape, None, key)


def _names(key: str, mask: NameRule, values: NameRule) -> tuple[str, str]:
    """The names of the tensor with the mask `key` before pruning and of its values; "" if `key` is not a mask."""
    name = mask.name(key)
    place = None if name is None else values.place(name)
    return ("", "") if name is None or place is None else (name, place.key)


def _nncf_names(key: str) -> tuple[str, str]:
    found = _NNCF_MASK.fullmatch(key)
    if found is None:
        return "", ""
    module = found["module"]
    name = f"{module}.weight" if module else found["above"] + found["below"].replace(":", ".")
    return name, name


def _masks_alone(file: Checkpoint) -> dict[str, PrunedTensor]:
    """All matrices and kernels, if they hold 0 and 1 alone, and some 0; else none. Small ones come first."""
    matrices = [(math.prod(t.shape), name) for name, t in file.tensors.items() if len(t.shape) > 1 and 0 not in t.shape]
    whole = True
    for _, name in sorted(matrices):
        values = file.numbers(name) if file.tensors[name].readable else np.full(1, 2)
        if not bool(((values == 0) | (values == 1)).all()):
            return {}
        whole = whole and bool(values.all())
    return {} if whole else {name: PrunedTensor(file.tensors[name].shape, None, name) for _, name in matrices}


def _compressed(file: Checkpoint) -> Iterator[tuple[str, PrunedTensor]]:
    tensors = file.tensors
    for key in tensors:
        module = key.removesuffix(".bitmask")
        keys = {part: f"{module}.{part}" for part in _PACKED}
        if module == key or not {keys["compressed"], keys["shape"]} <= tensors.keys():
            continue
        shape, bits = _shape(file, keys["shape"]), tensors[key].shape
        if not shape or bits != (*shape[:-1], math.ceil(shape[-1] / 8)):
            raise SourceError(
                f"bitmask and shape disagree: '{module}' in {file.path}, {bits} and {shape}; "
                "download or export it again"
            )
        quantised = quantised_as(file, module, keys["compressed"], shape)
        problem = tensors[keys["compressed"]].problem
        if problem is not None and quantised is None:
            raise SourceError(
                f"compressed weight is {problem}: '{module}' in {file.path}; export it without quantisation"
            )
        yield f"{module}.weight", PrunedTensor(shape, keys["compressed"], key, packed=True, quantised=quantised)


def _shape(file: Checkpoint, key: str) -> tuple[int, ...]:
    """The shape stored as the values of a tensor; () if there is none."""
    if math.prod(file.tensors[key].shape) > _MOST_DIMENSIONS:
        return ()
    sizes = file.read(key).reshape(-1)
    return () if sizes.is_floating_point() else tuple(int(size) for size in sizes)
