"""The full integrity check of a bundle: every law, each with its own answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.bitmask import Mask, unpack_mask
from opentrans_cli.bundle.digest import file_sha256
from opentrans_cli.bundle.folder import check_folder, file_path, manifest_bytes, read_manifest
from opentrans_cli.bundle.manifest import Manifest
from opentrans_cli.bundle.nested import decode_snapshot, last_round, saved_rounds
from opentrans_cli.bundle.tensorfile import read_metadata, read_tensors, tensor_headers
from opentrans_cli.errors import BundleError, OpentransError


@dataclass(frozen=True)
class Check:
    """One law and whether the bundle keeps it."""

    name: str
    ok: bool
    detail: str  # what was counted, or what is wrong with the next move


def verify_bundle(path: Path | str) -> tuple[Check, ...]:
    """Checks manifest, files, hashes, headers, masks, values, rounds and steps, reading every byte.

    A damaged bundle gives failed checks; only a path that is no bundle at all raises BundleError.
    """
    folder = Path(path)
    manifest_bytes(folder)
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        return (Check("manifest", False, str(error)),)
    return (
        Check("manifest", True, f"version {manifest.version}, {len(manifest.layers)} layers"),
        *_checks(folder, manifest),
    )


def _checks(folder: Path, manifest: Manifest) -> Iterator[Check]:
    yield _attempt("files", lambda: _files(folder, manifest))
    yield _attempt("hashes", lambda: _hashes(folder, manifest))
    yield _attempt("headers", lambda: _headers(folder, manifest))
    yield _attempt("padding", lambda: _padding(folder, manifest))
    yield _attempt("mask counts", lambda: _mask_counts(folder, manifest))
    if manifest.file(layout.WEIGHTS):
        yield _attempt("value counts", lambda: _value_counts(folder, manifest))
    yield _attempt("finite values", lambda: _finite(folder, manifest))
    if manifest.file(layout.ROUNDS):
        yield _attempt("rounds", lambda: _rounds(folder, manifest))
    if manifest.file(layout.ROUND_WEIGHTS):
        yield _attempt("round weights", lambda: _round_weights(folder, manifest))
    yield _attempt("steps", lambda: _steps(manifest))


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except OpentransError as error:
        return Check(name, False, str(error))
    except OSError as error:
        return Check(name, False, f"cannot read: {error.strerror or error}; check permissions")


def _files(folder: Path, manifest: Manifest) -> str:
    check_folder(folder, manifest)
    return f"{len(manifest.files)} files, {sum(entry.bytes for entry in manifest.files)} bytes"


def _hashes(folder: Path, manifest: Manifest) -> str:
    damaged = [entry.name for entry in manifest.files if file_sha256(file_path(folder, entry)) != entry.sha256]
    if damaged:
        raise BundleError(f"{', '.join(damaged)} does not match its hash; write or download the bundle again")
    return f"{len(manifest.files)} sha256 sums agree"


def _headers(folder: Path, manifest: Manifest) -> str:
    names = _tensor_files(manifest)
    for name in names:
        _found(folder, manifest, name)
    return f"{len(names)} tensor files as declared"


def _padding(folder: Path, manifest: Manifest) -> str:
    packed = _tensors(folder, manifest, layout.MASK)
    for layer in manifest.layers:
        unpack_mask(packed[layer.name], layer.shape)
    return "unused bits are zero"


def _mask_counts(folder: Path, manifest: Manifest) -> str:
    _masks(folder, manifest)
    return f"{manifest.kept} of {manifest.total} weights kept"


def _value_counts(folder: Path, manifest: Manifest) -> str:
    # The header is enough: it was compared with the manifest, and the mask's count is a check of its own.
    stored = tensor_headers(_found(folder, manifest, layout.WEIGHTS))
    values = sum(stored[layout.weight_name(layer.name)].shape[0] for layer in manifest.layers)
    return f"{values} values, one for every kept weight"


def _finite(folder: Path, manifest: Manifest) -> str:
    count = 0
    for file in (layout.WEIGHTS, layout.HEAD):
        if manifest.file(file) is None:
            continue
        for name, array in _tensors(folder, manifest, file).items():
            layout.check_finite(name, array)
            count += 1
    return f"{count} tensors hold neither NaN nor infinity"


def _rounds(folder: Path, manifest: Manifest) -> str:
    rounds = _tensors(folder, manifest, layout.ROUNDS)
    last = 0
    for layer, mask in _masks(folder, manifest).items():
        layout.check_rounds(layer, rounds[layer], mask)
        last = max(last, int(rounds[layer].max()))
    return f"{last} nested rounds, round 0 is the mask"


def _round_weights(folder: Path, manifest: Manifest) -> str:
    stored = _tensors(folder, manifest, layout.ROUND_WEIGHTS)
    last, rounds = _tensors(folder, manifest, layout.WEIGHTS), _tensors(folder, manifest, layout.ROUNDS)
    end, saved = last_round(rounds), saved_rounds(stored)
    if saved and saved[-1] >= end:
        raise BundleError(f"weights of round {saved[-1]}, the last is {end}; write or download the bundle again")
    for number in saved:
        decode_snapshot(number, stored, last=last, rounds=rounds, origin=layout.ROUND_WEIGHTS)
    return f"towers of {len(saved)} earlier rounds, each with a value for every kept weight"


def _steps(manifest: Manifest) -> str:
    # The format of every digest, and that all but the first name a parent, are laws of the manifest itself.
    verbs = " -> ".join(step.verb for step in manifest.steps)
    return f"{len(manifest.steps)} steps: {verbs}" if verbs else "no steps recorded"


def _tensor_files(manifest: Manifest) -> list[str]:
    return [entry.name for entry in manifest.files if entry.name.endswith(".safetensors")]


def _found(folder: Path, manifest: Manifest, name: str) -> Path:
    """Where the tensor file is, once its headers are known to agree, so that reading it takes the memory
    expected.
    """
    entry = manifest.file(name)
    assert entry is not None
    path = file_path(folder, entry)
    layout.check_headers(manifest, name, tensor_headers(path))
    read_metadata(path)
    return path


def _tensors(folder: Path, manifest: Manifest, name: str) -> dict[str, NDArray[Any]]:
    return read_tensors(_found(folder, manifest, name))


def _masks(folder: Path, manifest: Manifest) -> dict[str, Mask]:
    packed = _tensors(folder, manifest, layout.MASK)
    return {layer.name: layout.decode_mask(layer, packed[layer.name]) for layer in manifest.layers}
