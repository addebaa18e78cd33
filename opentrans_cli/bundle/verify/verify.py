"""The full integrity check of a bundle: every law, each with its own answer. Every file is read once.

Documents are judged by the public schema; most laws hold between files, which no schema describes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.folder import check_bundle_folder, file_path, manifest_bytes, read_manifest
from opentrans_cli.bundle.manifest import FileEntry, Manifest
from opentrans_cli.bundle.schema import check_document, check_report_file
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.bundle.verify.history import check_frozen, check_parents, check_steps, frozen_hashes, parent_facts
from opentrans_cli.bundle.verify.laws import (
    FiniteValues,
    Law,
    MaskCounts,
    Padding,
    Rounds,
    RoundWeights,
    TensorHashes,
    ValueCounts,
)
from opentrans_cli.bundle.verify.signature import Signer, check_signature
from opentrans_cli.errors import BundleError, OpentransError
from opentrans_cli.files.header import Head
from opentrans_cli.files.scan import Scanned, TensorPiece, scan_file, scan_tensors
from opentrans_cli.files.tensorfile import parse_metadata

# Files whose tensors others are compared with come first.
_ORDER = (layout.MASK, layout.WEIGHTS, layout.ROUNDS, layout.ROUND_WEIGHTS)


@dataclass(frozen=True)
class Check:
    """One law and whether the bundle keeps it."""

    name: str
    ok: bool
    detail: str  # what was counted, or what is wrong with the next move


def verify_bundle(
    path: Path | str, *, parents: Sequence[Path | str] = (), signer: Signer | None = None
) -> tuple[Check, ...]:
    """Checks manifest, files, hashes, headers, masks, values, rounds, reports and history, reading every byte once.

    parents: bundles said to be steps of its history; each is checked completely, compared by digest, and its tensors
    with those that were frozen since. signer: whose signature it must have. A damaged bundle gives failed checks; only
    a path that is no bundle at all raises BundleError.
    """
    folder = Path(path)
    manifest_bytes(folder)
    try:
        manifest = read_manifest(folder)
    except BundleError as error:
        return (Check("manifest", False, str(error)),)
    reading = _Reading(folder, manifest)
    return (
        Check("manifest", True, f"version {manifest.version}, {len(manifest.layers)} layers"),
        *reading.checks(),
        *(_attempt("parent", partial(_parent, reading, Path(given))) for given in parents),
        *([] if signer is None else [_attempt("signature", partial(check_signature, folder, signer))]),
    )


class _Reading:
    """One pass over all files of a bundle; `watched` are tensors of the tower whose hashes are wanted."""

    def __init__(self, folder: Path, manifest: Manifest, *, watched: Collection[str] = ()) -> None:
        self.folder, self.manifest = folder, manifest
        self._problems: dict[str, OpentransError | OSError] = {}  # by law, the first one it met
        self._scanned: dict[str, Scanned] = {}
        self._unreadable: dict[str, OpentransError | OSError] = {}  # by file
        self.hashes = TensorHashes({*watched, *self._frozen()})
        self._laws = (*_laws(manifest), self.hashes)
        for entry in sorted(manifest.files, key=_rank):
            self._read(entry)

    def _frozen(self) -> Mapping[str, str]:
        try:
            return frozen_hashes(self.folder, self.manifest) or {}
        except (OpentransError, OSError):
            return {}  # the check of the reports says so

    def _read(self, entry: FileEntry) -> None:
        try:
            path = file_path(self.folder, entry)
            if entry.name.endswith(".safetensors"):
                check = partial(self._heads, entry.name, path)
                scanned = scan_tensors(path, entry.name, check=check, see=self._see)
                if scanned.problem is not None:
                    self._unreadable[entry.name] = scanned.problem
            else:
                scanned = scan_file(path)
            self._scanned[entry.name] = scanned
        except (OpentransError, OSError) as error:
            self._unreadable[entry.name] = error

    def _heads(self, name: str, path: Path, head: Head) -> None:
        """BundleError unless the headers are those the manifest asks for."""
        parse_metadata(head, path)
        layout.check_headers(self.manifest, name, head.headers())

    def _see(self, piece: TensorPiece) -> None:
        for law in self._laws:
            if piece.file in law.files and law.name not in self._problems:
                try:
                    law.see(piece)
                except OpentransError as error:
                    self._problems[law.name] = error

    def checks(self) -> Iterator[Check]:
        """The verdicts, in a fixed order."""
        yield _attempt("files", self._files)
        yield _attempt("hashes", self._hashes)
        yield _attempt("headers", self._headers)
        for law in self._laws:
            if law is not self.hashes:
                yield _attempt(law.name, partial(self.verdict, law))
        yield _attempt("schema", self._schema)
        yield _attempt("steps", lambda: check_steps(self.manifest))
        yield _attempt("parents", lambda: check_parents(self.bundle))
        if self.manifest.file(layout.FINETUNE_REPORT):
            yield _attempt("frozen layers", self._frozen_layers)

    @property
    def bundle(self) -> Bundle:
        """The bundle, for its digest."""
        return Bundle(self.folder, self.manifest)

    def verdict(self, law: Law) -> str:
        """What a law counted. Raises what it met, or what kept one of its files from being read."""
        for file in law.files:
            if file in self._unreadable:
                raise self._unreadable[file]
        if law.name in self._problems:
            raise self._problems[law.name]
        return law.verdict({name: scanned.places for name, scanned in self._scanned.items()})

    def tensor_hashes(self) -> dict[str, str]:
        """SHA-256 of the watched tensors that are stored, by name."""
        if not self.manifest.file(layout.WEIGHTS):
            return {}
        self.verdict(self.hashes)
        return self.hashes.found

    def _files(self) -> str:
        check_bundle_folder(self.folder, self.manifest)
        return f"{len(self.manifest.files)} files, {sum(entry.bytes for entry in self.manifest.files)} bytes"

    def _hashes(self) -> str:
        hashes = {name: scanned.sha256 for name, scanned in self._scanned.items()}
        damaged = [entry.name for entry in self.manifest.files if hashes.get(entry.name) != entry.sha256]
        if damaged:
            raise BundleError(f"{', '.join(damaged)} does not match its hash; write or download the bundle again")
        return f"{len(self.manifest.files)} sha256 sums agree"

    def _headers(self) -> str:
        names = [entry.name for entry in self.manifest.files if entry.name.endswith(".safetensors")]
        for name in names:
            if name in self._unreadable:
                raise self._unreadable[name]
        return f"{len(names)} tensor files as declared"

    def _schema(self) -> str:
        check_document(self.manifest.to_json(), "manifest")
        reports = [entry for entry in self.manifest.files if entry.name.startswith("reports/")]
        for entry in reports:
            check_report_file(entry.name, file_path(self.folder, entry))
        return f"manifest and {len(reports)} reports"

    def _frozen_layers(self) -> str:
        if not self.manifest.file(layout.WEIGHTS):
            return "masks alone, nothing to compare"
        return check_frozen(frozen_hashes(self.folder, self.manifest), self.tensor_hashes())


def _laws(manifest: Manifest) -> Iterator[Law]:
    masks = MaskCounts(manifest)
    yield from (Padding(manifest), masks)
    if manifest.file(layout.WEIGHTS):
        yield ValueCounts(manifest)
    yield FiniteValues(manifest)
    if manifest.file(layout.ROUNDS):
        rounds = Rounds(manifest, masks)
        yield rounds
        if manifest.file(layout.ROUND_WEIGHTS):
            yield RoundWeights(rounds)


def _rank(entry: FileEntry) -> tuple[int, str]:
    return (_ORDER.index(entry.name) if entry.name in _ORDER else len(_ORDER), entry.name)


def _parent(child: _Reading, path: Path) -> str:
    """What the bundle at `path` is to `child`. Raises BundleError if it is no parent, or no sound bundle."""
    manifest_bytes(path)
    own = child.tensor_hashes()
    parent = _Reading(path, read_manifest(path), watched=own)
    failed = next((check for check in parent.checks() if not check.ok), None)
    if failed is not None:
        raise BundleError(f"parent is not valid: {str(path)!r} ({failed.name}): {failed.detail}")
    return parent_facts(child.bundle, parent.bundle, own, parent.tensor_hashes())


def _attempt(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except OpentransError as error:
        return Check(name, False, str(error))
    except OSError as error:
        return Check(name, False, f"cannot read: {error.strerror or error}; check permissions")
