"""Checkpoints that other programs pruned, tensor by tensor, under the names they had before pruning.

    opentrans            the paper's `seg_backbone_imp*.pth`: what torch-prune says, in dicts `first_conv`, `backbone`
                         and `sem_seg_head`
    torch-prune          `X_orig` and `X_mask` of torch.nn.utils.prune, or `X.weight_mask` with or without `X.weight`
    compressed-tensors   the bitmasks of compressed-tensors up to 0.14 (sparse-bitmask, sparse-24-bitmask):
                         `M.compressed`, `M.bitmask`, `M.shape` (and `M.row_offsets`) for `M.weight`; bits along the
                         last axis, the lowest first
    zeros                a plain checkpoint: what is zero, of either sign, was pruned (a mask times a negative weight
                         leaves -0.0)

Nothing but headers is held in memory, but of pickles as detectron2's model zoo has them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opentrans_cli.checkpoints.file_kind import PLAIN_PICKLE, file_kind
from opentrans_cli.checkpoints.numpy_pickle import read_numpy_pickle
from opentrans_cli.checkpoints.weight_file import NOT_FLOATING, Header, WeightFile, open_weight_file
from opentrans_cli.errors import MaskError, OptionError, SourceError

OPENTRANS, TORCH_PRUNE, COMPRESSED, ZEROS = "opentrans", "torch-prune", "compressed-tensors", "zeros"
FORMATS = (OPENTRANS, TORCH_PRUNE, COMPRESSED, ZEROS)

_OFFICIAL_PARTS = {"first_conv", "backbone"}
_MOST_DIMENSIONS = 8


@dataclass(frozen=True)
class Stored:
    """Where a tensor is in the file, and its shape before pruning."""

    shape: tuple[int, ...]
    values: str | None  # key of its values; None: the file has its mask alone
    mask: str | None = None  # key of its mask, one number a weight; for packed ones of its bits
    packed: bool = False  # kept values alone, one after the other


@dataclass(frozen=True)
class ForeignFile:
    """A pruned checkpoint."""

    path: Path
    format: str  # one of FORMATS
    stored: Mapping[str, Stored]  # by name before pruning
    file: WeightFile

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, by name."""
        return {name: stored.shape for name, stored in self.stored.items()}

    @property
    def masked(self) -> frozenset[str]:
        """Names of the tensors that have a mask of their own in the file."""
        return frozenset(name for name, stored in self.stored.items() if stored.mask is not None)

    def mask(self, name: str, rows: slice | None = None) -> Tensor | None:
        """Which values of (some rows of) a tensor are kept, bool; None if the file has no mask for it.

        Raises MaskError for a mask that is not made of 0 and 1, SourceError for a file that cannot be read.
        """
        stored = self.stored[name]
        if stored.mask is None:
            return None
        if stored.packed:
            return _rows(self._bits(name, stored), rows)
        mask = self.file.read(stored.mask, rows)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise MaskError(f"mask is not made of 0 and 1: '{stored.mask}' in {self.path}; export it again")
        return mask != 0

    def values(self, name: str, rows: slice | None = None) -> Tensor | None:
        """(Some rows of) a tensor as it is stored, without its mask; None if the file has its mask alone.

        Packed ones have zeros where they are pruned. Raises SourceError for a file that cannot be read.
        """
        stored = self.stored[name]
        if stored.values is None:
            return None
        if not stored.packed:
            return self.file.read(stored.values, rows)
        kept, bits = self.file.read(stored.values).reshape(-1), self._bits(name, stored)
        if int(bits.sum()) != kept.numel():
            raise SourceError(
                f"bitmask and values disagree: '{name}' in {self.path}, {int(bits.sum())} bits and {kept.numel()} "
                "values; download or export it again"
            )
        return _rows(torch.zeros(stored.shape, dtype=kept.dtype).masked_scatter_(bits, kept), rows)

    def _bits(self, name: str, stored: Stored) -> Tensor:
        assert stored.mask is not None
        packed = self.file.read(stored.mask)
        if packed.dtype != torch.uint8:
            raise SourceError(f"bitmask is not of bytes: '{name}' in {self.path}; download or export it again")
        bits = np.unpackbits(packed.numpy(), axis=-1, count=stored.shape[-1], bitorder="little")
        return torch.from_numpy(bits).view(torch.bool)


class _Arrays:
    """A pickle of detectron2's model zoo, which cannot be read but whole."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.headers: Mapping[str, Header] = {
            key: Header(tuple(tensor.shape), None if tensor.is_floating_point() else NOT_FLOATING)
            for key, tensor in tensors.items()
        }

    def read(self, key: str, rows: slice | None = None) -> Tensor:
        return _rows(self._tensors[key], rows)

    def close(self) -> None:
        pass


def open_foreign(path: Path, format: str | None = None) -> ForeignFile:
    """Open a pruned checkpoint; its content says of which kind it is, or `format`, one of FORMATS.

    Raises OptionError for an unknown format, SourceError if the file cannot be read or is of another one.
    """
    if format is not None and format not in FORMATS:
        raise OptionError(f"unknown format: '{format}'; choose one of {', '.join(FORMATS)}")
    plain = file_kind(path) == PLAIN_PICKLE
    file: WeightFile = _Arrays(read_numpy_pickle(path)) if plain else open_weight_file(path)
    chosen = format or _format(file.headers)
    if chosen == COMPRESSED:
        stored = dict(_compressed(file, path))
    elif chosen == ZEROS:
        stored = {key: Stored(header.shape, key) for key, header in _plain(file.headers)}
    else:
        stored = dict(_pruned(file.headers))
    if chosen != ZEROS and not any(entry.mask is not None for entry in stored.values()):
        raise SourceError(f"no mask by the names of {chosen}: {path}; leave --format out")
    return ForeignFile(path, chosen, stored, file)


def _format(headers: Mapping[str, Header]) -> str:
    if next(_bitmasked(headers), None) is not None:
        return COMPRESSED
    if not any(entry.mask is not None for _, entry in _pruned(headers)):
        return ZEROS
    return OPENTRANS if {key.split(".")[0] for key in headers} >= _OFFICIAL_PARTS else TORCH_PRUNE


def _plain(headers: Mapping[str, Header]) -> Iterator[tuple[str, Header]]:
    """Tensors that can be read as they are; BatchNorm's counters are whole numbers."""
    return ((key, header) for key, header in headers.items() if header.problem in (None, NOT_FLOATING))


def _rows(tensor: Tensor, rows: slice | None) -> Tensor:
    return tensor if rows is None else tensor[rows]


def _pruned(headers: Mapping[str, Header]) -> Iterator[tuple[str, Stored]]:
    """The tensors of a state dict under torch.nn.utils.prune; one that is pruned has another key than before."""
    masks = dict(_masks(headers))
    for name, mask in masks.items():
        original = next((key for key in (f"{name}_orig", name) if key in headers), None)
        yield name, Stored(headers[mask].shape, original, mask)
    taken = {f"{name}_orig" for name in masks} | {*masks, *masks.values()}
    for key, header in _plain(headers):
        if key not in taken:
            yield key, Stored(header.shape, key)


def _masks(headers: Mapping[str, Header]) -> Iterator[tuple[str, str]]:
    """(name before pruning, key of its mask). A buffer such as `attn_mask` is none: nothing is called `attn_orig`."""
    for key, header in headers.items():
        name = key.removesuffix("_mask")
        if name == key:
            continue
        original = headers.get(f"{name}_orig", headers.get(name) if key.endswith("weight_mask") else None)
        alone = original is None and key.endswith("weight_mask")
        if alone or (original is not None and original.shape == header.shape):
            yield name, key


def _bitmasked(headers: Iterable[str]) -> Iterator[str]:
    """Names of the modules whose weight is packed."""
    keys = set(headers)
    for key in headers:
        module = key.removesuffix(".bitmask")
        if module != key and {f"{module}.compressed", f"{module}.shape"} <= keys:
            yield module


def _compressed(file: WeightFile, path: Path) -> Iterator[tuple[str, Stored]]:
    parts, taken = ("compressed", "bitmask", "shape", "row_offsets"), set()
    for module in _bitmasked(file.headers):
        keys = {part: f"{module}.{part}" for part in parts}
        taken |= set(keys.values())
        shape, bits = _shape(file, keys["shape"]), file.headers[keys["bitmask"]].shape
        if not shape or bits != (*shape[:-1], math.ceil(shape[-1] / 8)):
            raise SourceError(
                f"bitmask and shape disagree: '{module}' in {path}, {bits} and {shape}; download or export it again"
            )
        problem = file.headers[keys["compressed"]].problem
        if problem is not None:
            raise SourceError(f"compressed weight is {problem}: '{module}' in {path}; export it without quantisation")
        yield f"{module}.weight", Stored(shape, keys["compressed"], keys["bitmask"], packed=True)
    for key, header in _plain(file.headers):
        if key not in taken:
            yield key, Stored(header.shape, key)


def _shape(file: WeightFile, key: str) -> tuple[int, ...]:
    """The shape written down in a tensor; () if none is."""
    header = file.headers[key]
    if math.prod(header.shape) > _MOST_DIMENSIONS:
        return ()
    sizes = file.read(key).reshape(-1)
    return () if sizes.is_floating_point() else tuple(int(size) for size in sizes)
