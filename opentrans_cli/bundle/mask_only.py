"""A bundle without values: which weights are kept, and what was measured. It can be shared where weights cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.folder import MANIFEST
from opentrans_cli.bundle.manifest import FileEntry, Step
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.files.atomic import write_file
from opentrans_cli.files.records import json_bytes
from opentrans_cli.files.tensorfile import tensor_chunks
from opentrans_cli.version import __version__

EIGENVALUES = "eigenvalues."
"""Start of the names of whole spectra in `alpha.safetensors`, beside its columns."""

_LOG = "reports/prune.json"  # step by step; as large as the training was long


def write_mask_only(bundle: Bundle, folder: Path) -> Bundle:
    """Writes the masks of `bundle` into the empty `folder`, with its exponents and the figures of its reports.

    Left behind: weights, rounds, segmentor, whole spectra, pictures and the log of pruning. The history gains a step
    that names `bundle` as its parent; the same bundle gives the same bytes. Raises BundleError for a damaged bundle.
    """
    entries = [_write(folder, name, chunks) for name, chunks in _contents(bundle)]
    step = Step(
        verb="push",
        options={"mask_only": True},
        seed=None,
        versions={"opentrans": __version__},
        data=None,
        parent=bundle.digest,
        metrics={},
    )
    manifest = replace(bundle.manifest, files=tuple(entries), steps=(*bundle.manifest.steps, step), segmentor=None)
    write_file(folder / MANIFEST, [json_bytes(manifest.to_json())])
    return open_bundle(folder)


def is_mask_only(bundle: Bundle) -> bool:
    """Whether the bundle holds nothing that `write_mask_only` would leave behind."""
    return all(_stays(entry.name) for entry in bundle.manifest.files) and bundle.manifest.segmentor is None


def _stays(name: str) -> bool:
    return name in (layout.MASK, layout.ALPHA) or (name.endswith(".json") and name != _LOG)


def _contents(bundle: Bundle) -> Iterator[tuple[str, list[bytes | memoryview]]]:
    for entry in sorted(bundle.manifest.files, key=lambda file: file.name):
        if not _stays(entry.name):
            continue
        if entry.name != layout.ALPHA:
            yield entry.name, [bundle.read(entry.name)]
        elif (stored := bundle.alpha()) is not None:
            columns = {name: array for name, array in stored[0].items() if not name.startswith(EIGENVALUES)}
            yield entry.name, list(tensor_chunks(columns, stored[1]))


def _write(folder: Path, name: str, chunks: list[bytes | memoryview]) -> FileEntry:
    (folder / name).parent.mkdir(exist_ok=True)
    written = write_file(folder / name, chunks)
    return FileEntry(name, written.sha256, written.bytes)
