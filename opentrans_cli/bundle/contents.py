"""The contents of a new bundle, the rules they must follow, and how they are written to files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.bitmask import Mask, pack_mask
from opentrans_cli.bundle.layout import Tensors, check_finite, check_rounds, encode_tower, stored_dtypes
from opentrans_cli.bundle.manifest import (
    DTYPES,
    FILE_NAME,
    LAYER_NAME,
    Base,
    FileEntry,
    LayerEntry,
    Manifest,
    SegmentorRecord,
    Step,
)
from opentrans_cli.bundle.nested import encode_snapshots
from opentrans_cli.bundle.schema import PNG
from opentrans_cli.errors import BundleError, MaskError
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.tensorfile import write_tensors


@dataclass(frozen=True, eq=False)
class BundleContents:
    """Everything `write_bundle` needs. Arrays are numpy, names are open_clip's inside the visual tower."""

    base: Base
    pattern: str
    target_sparsity: float  # in [0, 1]
    masks: Mapping[str, Mask]  # by layer, bool in the weight's shape, True = kept; every prunable layer
    tower: Tensors  # dense tensors of the visual tower, `<layer>.weight` zero where pruned; {} = mask only
    steps: tuple[Step, ...]  # oldest first, the one that made these contents last
    dtype: str = "float32"  # of the kept values, one of DTYPES; other tensors stay as they are
    rounds: Mapping[str, NDArray[np.uint8]] | None = None  # by layer: when a weight was pruned, 0 = kept
    # By round, from 1: the dense tower after an earlier round, zero where pruned by then; each is read once.
    round_weights: Mapping[int, Tensors] = field(default_factory=dict)
    head: Tensors | None = None  # tensors of a segmentor beyond the tower
    segmentor: SegmentorRecord | None = None
    alpha: tuple[Tensors, Mapping[str, Any]] | None = None  # arrays and metadata of `alpha.safetensors`
    reports: Mapping[str, bytes] = field(default_factory=dict)  # "reports/<name>.json|png", "README.md"


class TensorFile(NamedTuple):
    """One safetensors file to write."""

    name: str
    tensors: Tensors
    metadata: Mapping[str, Any] | None = None
    dtypes: Mapping[str, str] | None = None


def encode_files(contents: BundleContents) -> tuple[TensorFile, ...]:
    """The tensor files of a new bundle, in memory.

    Raises MaskError or BundleError, naming layer or tensor, if a rule of the format is broken.
    """
    if contents.dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}, not {contents.dtype}")
    if contents.head is not None and contents.segmentor is None:
        raise ValueError("the tensors of a segmentor come with its description")
    if not contents.masks:
        raise MaskError("no layer to prune: the masks are empty; choose a model with convolutions or linear layers")
    for layer, mask in contents.masks.items():
        _check_mask(layer, mask)
    if contents.rounds is not None:
        _check_all_rounds(contents.rounds, contents.masks)
    for name, array in (contents.head or {}).items():
        check_finite(name, array)
    for name, data in contents.reports.items():
        check_report(name, data)
    return tuple(_tensor_files(contents))


def check_report(name: str, data: bytes) -> None:
    """Raises BundleError unless `name` is allowed for a report or README and `data` has the format of the name."""
    if not FILE_NAME.fullmatch(name) or name.endswith(".safetensors"):
        raise BundleError(f"not a name for a report: {name!r}; use reports/<lower-case name>.json, .png or README.md")
    if name.endswith(".json"):
        parse_json(data, name)
    elif name.endswith(".png") and not data.startswith(PNG):
        raise BundleError(f"not a PNG picture: {name!r}; save the picture as PNG")


def write_files(contents: BundleContents, files: Iterable[TensorFile], folder: Path) -> Manifest:
    """Writes the tensor files and the reports into `folder` and returns the manifest that describes them."""
    entries = []
    for file in files:
        written = write_tensors(folder / file.name, file.tensors, file.metadata, dtypes=file.dtypes)
        entries.append(FileEntry(file.name, written.sha256, written.bytes))
    for name, data in contents.reports.items():
        (folder / name).parent.mkdir(exist_ok=True)
        written = write_file(folder / name, [data])
        entries.append(FileEntry(name, written.sha256, written.bytes))
    layers = tuple(_describe_layer(name, contents) for name in sorted(contents.masks))
    return Manifest(
        base=contents.base,
        pattern=contents.pattern,
        target_sparsity=contents.target_sparsity,
        achieved_sparsity=1 - sum(layer.kept for layer in layers) / sum(layer.total for layer in layers),
        layers=layers,
        files=tuple(sorted(entries, key=lambda entry: entry.name)),
        steps=contents.steps,
        segmentor=contents.segmentor,
    )


def _describe_layer(name: str, contents: BundleContents) -> LayerEntry:
    mask = contents.masks[name]
    kept = int(np.count_nonzero(mask))
    return LayerEntry(name=name, shape=mask.shape, dtype=contents.dtype, kept=kept, total=mask.size)


def _tensor_files(contents: BundleContents) -> Iterator[TensorFile]:
    yield TensorFile(layout.MASK, {layer: pack_mask(mask) for layer, mask in contents.masks.items()})
    tower = encode_tower(contents.tower, contents.masks, contents.dtype) if contents.tower else None
    if tower is not None:
        yield TensorFile(layout.WEIGHTS, tower, dtypes=stored_dtypes(tower, contents.masks, contents.dtype))
    if contents.rounds is not None:
        yield TensorFile(layout.ROUNDS, contents.rounds)
    if contents.round_weights:
        if contents.rounds is None or tower is None:
            raise ValueError("the towers of earlier rounds come with the rounds and the last tower")
        stored = encode_snapshots(contents.round_weights, contents.rounds, tower, contents.dtype)
        if stored:
            bits = stored_dtypes(stored, contents.masks, contents.dtype)
            yield TensorFile(layout.ROUND_WEIGHTS, stored, dtypes=bits)
    if contents.head is not None:
        yield TensorFile(layout.HEAD, contents.head)
    if contents.alpha is not None:
        yield TensorFile(layout.ALPHA, *contents.alpha)


def _check_mask(layer: str, mask: Mask) -> None:
    if not LAYER_NAME.fullmatch(layer):
        raise MaskError(f"not a layer name: {layer!r}; use the name inside the visual tower, such as layer1.0.conv1")
    if mask.dtype != np.bool_ or mask.size == 0 or mask.ndim == 0:
        raise MaskError(f"not a mask: layer {layer!r} has {mask.dtype} {mask.shape}; give a bool array, True = kept")


def _check_all_rounds(rounds: Mapping[str, NDArray[np.uint8]], masks: Mapping[str, Mask]) -> None:
    if set(rounds) != set(masks):
        odd = sorted(set(rounds) ^ set(masks))[0]
        raise MaskError(f"rounds and masks have different layers: {odd!r}; record rounds for every masked layer")
    for layer, numbers in rounds.items():
        check_rounds(layer, numbers, masks[layer])
