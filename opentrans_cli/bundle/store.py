"""Bundles on disk: write a complete bundle, open one lazily, or add a measurement to one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.bitmask import Mask
from opentrans_cli.bundle.contents import BundleContents, check_report, encode_files, write_files
from opentrans_cli.bundle.folder import (
    MANIFEST,
    check_bundle_folder,
    check_replaceable,
    file_path,
    pending_path,
    read_manifest,
)
from opentrans_cli.bundle.layout import Tensors
from opentrans_cli.bundle.manifest import FileEntry, Manifest, Step
from opentrans_cli.bundle.nested import decode_snapshot, last_round, saved_rounds
from opentrans_cli.errors import BundleError
from opentrans_cli.files.atomic import locked, staged_folder, sync_folder, write_file
from opentrans_cli.files.header import TensorHeader
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.tensorfile import OpenTensors, open_tensors, read_bytes, tensor_chunks
from opentrans_cli.source_name import plain_source

__all__ = ["Bundle", "BundleContents", "add_file", "add_files", "open_bundle", "write_bundle"]

# These files identify a bundle; a measurement adds other files and does not change the bundle.
_IDENTITY = (layout.MASK, layout.WEIGHTS, layout.ROUNDS, layout.ROUND_WEIGHTS, layout.HEAD)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was read and whose files were found; tensors are read, and the files hashed, on demand.

    Pass the object on rather than its path: each file is opened and hashed only once, when it is first read.

    Every method that returns tensors raises BundleError when the file is damaged or disagrees with the
    manifest.
    """

    path: Path
    manifest: Manifest
    _opened: dict[str, OpenTensors] = field(default_factory=dict, init=False, repr=False, compare=False)
    _hashed: dict[str, tuple[int, int, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Identity "sha256:<hex>" of base and subnet tensors; reports and alpha do not count."""
        parts = [f"{entry.name}:{entry.sha256}" for entry in self.manifest.files if entry.name in _IDENTITY]
        text = "\n".join([self.manifest.base.digest, *sorted(parts)])
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all declared files and the manifest."""
        return sum(entry.bytes for entry in self.manifest.files) + (self.path / MANIFEST).stat().st_size

    def has(self, name: str) -> bool:
        """Whether the bundle has the file `name`, such as "weights.safetensors"."""
        return self.manifest.file(name) is not None

    def file_path(self, name: str) -> Path:
        """Where the content of the file `name` is now. Raises BundleError if the bundle does not have it."""
        return file_path(self.path, self._entry(name))

    def masks(self) -> dict[str, Mask]:
        """By layer: bool in the weight's shape, True = kept."""
        packed = self._all(layout.MASK)
        return {layer.name: layout.decode_mask(layer, packed[layer.name]) for layer in self.manifest.layers}

    def tower(self) -> dict[str, NDArray[Any]]:
        """Every tensor of the visual tower, dense: floating ones as float32, exact zeros where pruned."""
        if not self.has(layout.WEIGHTS):
            raise BundleError(
                f"bundle holds a mask but no weights: {str(self.path)!r}; "
                f"apply it to its base, {self.manifest.base.source!r}"
            )
        return layout.decode_tower(self.masks(), self._all(layout.WEIGHTS), origin=str(self.path))

    def rounds(self) -> dict[str, NDArray[np.uint8]] | None:
        """By layer, uint8 in the weight's shape: round in which a weight was pruned, 0 = kept.

        None if not recorded. Raises MaskError if they do not fit the masks.
        """
        if not self.has(layout.ROUNDS):
            return None
        rounds = self._all(layout.ROUNDS)
        for layer, mask in self.masks().items():
            layout.check_rounds(layer, rounds[layer], mask)
        return rounds

    def saved_rounds(self) -> tuple[int, ...]:
        """The earlier rounds whose towers are stored, in order; only a file's header is read."""
        if not self.has(layout.ROUND_WEIGHTS):
            return ()
        return saved_rounds(self.tensor_headers(layout.ROUND_WEIGHTS))

    def round_tower(self, number: int) -> dict[str, NDArray[Any]]:
        """The dense tower after the earlier round `number`, in the same form as `tower`.

        Raises BundleError if it was not stored.
        """
        if number not in self.saved_rounds():
            raise BundleError(f"bundle has no weights of round {number}: {str(self.path)!r}; see `opentrans inspect`")
        rounds = self.rounds() or {}
        if number >= last_round(rounds):
            raise BundleError(
                f"weights of round {number}, the last is {last_round(rounds)}: {str(self.path)!r}; "
                "write or download the bundle again"
            )
        file, prefix = self.tensors(layout.ROUND_WEIGHTS), f"{number}/"
        own = {name: file.read(name) for name in file.head.headers() if name.startswith(prefix)}
        return decode_snapshot(number, own, last=self._all(layout.WEIGHTS), rounds=rounds, origin=str(self.path))

    def head(self) -> dict[str, NDArray[Any]] | None:
        """The segmentor's tensors beyond the tower; None if the bundle is not fine-tuned."""
        return self._all(layout.HEAD) if self.has(layout.HEAD) else None

    def alpha(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Arrays and metadata of the alpha report; None before `analyze`."""
        if not self.has(layout.ALPHA):
            return None
        file = self.tensors(layout.ALPHA)
        return file.read_all(), file.metadata

    def read(self, name: str) -> bytes:
        """The bytes of one file, checked against the manifest's hash first."""
        data = read_bytes(self.file_path(name))
        self._check_hash(name, hashlib.sha256(data).hexdigest())
        return data

    def _entry(self, name: str) -> FileEntry:
        entry = self.manifest.file(name)
        if entry is None:
            raise BundleError(f"bundle has no {name}: {str(self.path)!r}; see `opentrans inspect`")
        return entry

    def tensors(self, name: str) -> OpenTensors:
        """The tensor file `name`, opened and checked against the manifest; it is hashed again only if it changes.

        Raises BundleError when it is not there, has other tensors than the manifest says, or another hash.
        """
        found = self._open(name)
        if self._hashed.get(name) != (stamp := found.stamp()):
            self._check_hash(name, found.sha256())
            self._hashed[name] = stamp
        return found

    def tensor_headers(self, name: str) -> dict[str, TensorHeader]:
        """dtype and shape of every tensor of the file `name`, without hashing it. Raises errors as `tensors` does."""
        return self._open(name).head.headers()

    def _open(self, name: str) -> OpenTensors:
        if name not in self._opened:
            found = open_tensors(self.file_path(name))
            # Wrong shapes are refused before anything large is read.
            layout.check_headers(self.manifest, name, found.head.headers())
            self._opened[name] = found
        return self._opened[name]

    def _all(self, name: str) -> dict[str, NDArray[Any]]:
        return self.tensors(name).read_all()

    def _check_hash(self, name: str, found: str) -> None:
        if found != self._entry(name).sha256:
            raise BundleError(
                f"{name} does not match its hash: {str(self.path)!r}; it was changed or damaged, "
                "write or download the bundle again"
            )


def open_bundle(path: Path | str) -> Bundle:
    """The bundle in the folder `path`: reads the manifest and checks that every file is there with its size.

    Raises BundleError for a missing folder, no bundle, a wrong or newer manifest, missing or cut-off files,
    links that leave the folder, and undeclared tensor or pickle files.
    """
    folder = Path(plain_source(str(path)))
    manifest = read_manifest(folder)
    check_bundle_folder(folder, manifest)
    return Bundle(folder, manifest)


def write_bundle(path: Path | str, contents: BundleContents, *, force: bool = False) -> Bundle:
    """Writes a new bundle completely or not at all; the same contents give the same bytes.

    An existing `path` is refused; with `force` a bundle or an empty folder there is replaced in one step,
    other content never. Raises MaskError when a weight outside the mask is not zero or shapes differ,
    BundleError for values that are not finite, an existing target, or if writing fails.
    """
    files = encode_files(contents)
    target = Path(path)
    check_replaceable(target, force=force)
    with staged_folder(target, replace=force) as folder:
        manifest = write_files(contents, files, folder)
        write_file(folder / MANIFEST, [json_bytes(manifest.to_json())])
        open_bundle(folder)
    return open_bundle(target)


def add_file(bundle: Bundle, name: str, data: bytes | tuple[Tensors, Mapping[str, Any]], *, step: Step) -> Bundle:
    """Adds or replaces one measurement; see `add_files`."""
    return add_files(bundle, {name: data}, step=step)


def add_files(bundle: Bundle, files: Mapping[str, bytes | tuple[Tensors, Mapping[str, Any]]], *, step: Step) -> Bundle:
    """Adds or replaces measurements, all or none, and records the step, whose parent becomes this bundle; the
    digest stays.

    files: "alpha.safetensors" with (arrays, metadata), or "README.md" / "reports/<name>.json|png" with bytes.
    Raises BundleError if a name or content is not allowed, the bundle was replaced by another one, or writing fails.
    """
    contents = [_content(name, data) for name, data in files.items()]
    entries = [
        FileEntry(name=name, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for name, content in zip(files, contents, strict=True)
    ]
    try:
        with locked(bundle.path):
            current = open_bundle(bundle.path)
            if current.digest != bundle.digest:
                raise BundleError(f"bundle was replaced meanwhile: {str(bundle.path)!r}; run the command again")
            _settle(current)
            others = [other for other in current.manifest.files if other.name not in files]
            manifest = replace(
                current.manifest,
                files=tuple(sorted([*others, *entries], key=lambda file: file.name)),
                steps=(*current.manifest.steps, replace(step, parent=bundle.digest)),
            )
            _switch(current.path, manifest, zip(entries, contents, strict=True))
    except OSError as error:
        raise BundleError(
            f"cannot write into the bundle: {str(bundle.path)!r}, {error.strerror or error}; "
            "check free space and permissions"
        ) from error
    return open_bundle(bundle.path)


def _content(name: str, data: bytes | tuple[Tensors, Mapping[str, Any]]) -> bytes:
    if isinstance(data, tuple):
        if name != layout.ALPHA:
            raise ValueError(f"arrays are only added as {layout.ALPHA}, not {name}; other tensors make a new bundle")
        return b"".join(tensor_chunks(*data))
    check_report(name, data)
    return data


def _switch(folder: Path, manifest: Manifest, new: Iterable[tuple[FileEntry, bytes]]) -> None:
    """Write new content under its pending name, then the manifest, then rename the content. Only the manifest decides
    whether the old or the new content is valid.
    """
    places = {}
    for entry, content in new:
        place = folder / entry.name
        place.parent.mkdir(exist_ok=True)
        places[pending_path(folder, entry)] = place
        write_file(pending_path(folder, entry), [content])
    write_file(folder / MANIFEST, [json_bytes(manifest.to_json())])
    for pending, place in places.items():
        os.replace(pending, place)
        sync_folder(place.parent)


def _settle(bundle: Bundle) -> None:
    """Completes or removes what a killed `add_file` left."""
    for entry in bundle.manifest.files:
        pending = pending_path(bundle.path, entry)
        if pending.is_file():
            os.replace(pending, bundle.path / entry.name)
    for parent in (bundle.path, bundle.path / "reports"):
        for leftover in parent.glob(".*.next"):
            leftover.unlink()
