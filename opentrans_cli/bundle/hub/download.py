"""Download a bundle from the Hub, complete and checked, or not at all.

Beside the target stands a hidden folder until the bundle is whole: files that are arriving, named after the sha256 that
is expected of them, and the bundle as far as it is known to be right. A download that was killed goes on from there.
Not by the client's `snapshot_download`: that begins anew after a kill, and shows files that nobody has checked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opentrans_cli.bundle.folder import MANIFEST, check_replaceable
from opentrans_cli.bundle.hub.client import hub_errors, retrying
from opentrans_cli.bundle.hub.remote import RemoteRepo
from opentrans_cli.bundle.layout import SIGNATURE
from opentrans_cli.bundle.manifest import FileEntry, Manifest
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.files.atomic import locked, put_in_place, sync_folder, write_file
from opentrans_cli.files.digest import file_sha256
from opentrans_cli.files.tensorfile import read_bytes
from opentrans_cli.reporter import Reporter

_MEGABYTE = 1_000_000


def download(
    repo: RemoteRepo, manifest_text: bytes, target: Path, *, force: bool, seed: Path | None, reporter: Reporter
) -> int:
    """Write the bundle that `manifest_text` declares at `target`, and return the bytes that were fetched.

    Only declared files are fetched, never more than their declared bytes, and every one is hashed before the bundle
    appears; and the signature, where there is one, which `verify` can check. seed: the same bundle as it was pulled
    before. Raises HubError or BundleError; `target` is then as it was. A second download of the same bundle waits, and
    finds it there.
    """
    manifest = repo.parse(manifest_text)
    target = Path(os.path.realpath(target))
    total = sum(entry.bytes for entry in manifest.files)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _megabytes(reporter, f"pulling {repo.ref}, MB", total) as arrived, _workplace(target) as place:
            fetched = 0
            if not _is_there(target, manifest, manifest_text):
                check_replaceable(target, force=force)
                _check_room(place, total, repo)
                fetched = _Download(repo, manifest, place, arrived, reporter).run(seed)
                _finish(repo, manifest, manifest_text, place, target, seed, force=force)
            shutil.rmtree(place, ignore_errors=True)
            return fetched
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle: {str(target)!r}, {error.strerror or error}; "
            "check free space and permissions, or choose another --out"
        ) from error


@contextmanager
def _megabytes(reporter: Reporter, title: str, total: int) -> Iterator[Callable[[int], None]]:
    units = max(1, -(-total // _MEGABYTE))
    with reporter.bar(title, units) as advance:
        seen = shown = 0

        def arrived(count: int) -> None:
            nonlocal seen, shown
            seen += count
            while shown < min(units, -(-seen * units // max(total, 1))):
                advance("")
                shown += 1

        yield arrived


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """The hidden folder beside `target`, for this process alone."""
    place = target.with_name(f".{target.name}.pull")
    while True:
        place.mkdir(exist_ok=True)
        try:
            before = place.stat().st_ino
            with locked(place):
                # Whoever held the lock before may have been done and removed the folder: then it is not ours.
                if place.exists() and place.stat().st_ino == before:
                    yield place
                    return
        except FileNotFoundError:
            if place.exists():
                raise


def _is_there(target: Path, manifest: Manifest, manifest_text: bytes) -> bool:
    try:
        same = (target / MANIFEST).read_bytes() == manifest_text
    except OSError:
        return False
    return same and holds_all(target, manifest)


def holds_all(folder: Path, manifest: Manifest) -> bool:
    """Whether every declared file is in `folder`, right to the last bit. Raises OSError."""
    return all(_is_right(folder / entry.name, entry) for entry in manifest.files)


def _check_room(place: Path, total: int, repo: RemoteRepo) -> None:
    present = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    needed, free = total - present, shutil.disk_usage(place).free
    if needed > free:
        raise BundleError(f"not enough room: {repo.ref} needs {needed} bytes, {free} are free; choose another --out")


def _is_right(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256


@dataclass
class _Download:
    """The files of one bundle on their way into `place`."""

    repo: RemoteRepo
    manifest: Manifest
    place: Path
    arrived: Callable[[int], None]
    reporter: Reporter
    fetched: int = 0

    def run(self, seed: Path | None) -> int:
        """Bring every declared file into `place`/bundle, right to the last bit; returns the bytes that were fetched."""
        bundle, checked = self.place / "bundle", False
        (bundle / "reports").mkdir(parents=True, exist_ok=True)
        for entry in self.manifest.files:
            final, part = bundle / entry.name, self.place / f"{entry.sha256}.part"
            if _is_right(final, entry):
                self.arrived(entry.bytes)
                continue
            if seed is not None and not part.exists() and _is_right(seed / entry.name, entry):
                shutil.copyfile(seed / entry.name, part)
            if not _is_right(part, entry):
                if not checked:
                    self.repo.check_sizes(self.manifest)
                checked = True
                self._complete(part, entry)
            os.replace(part, final)
        return self.fetched

    def _complete(self, part: Path, entry: FileEntry) -> None:
        if part.exists() and part.stat().st_size > entry.bytes:
            part.unlink()
        for _ in range(2):
            with hub_errors(f"{self.repo.ref}, {entry.name}"):
                retrying(lambda: self._append(part, entry), say=self.reporter.say)
            if _is_right(part, entry):
                return
            part.unlink()
            self.reporter.say(f"{entry.name} of {self.repo.ref} arrived damaged; fetching it once more")
        raise HubError(
            f"what arrives is not what was published: {entry.name} of {self.repo.ref} does not match its hash; "
            "nothing was written, try again later or tell its owner"
        )

    def _append(self, part: Path, entry: FileEntry) -> None:
        with open(part, "ab") as file:
            self.repo.receive(entry.name, file, most=entry.bytes, size=entry.bytes, arrived=self._count)
            os.fsync(file.fileno())

    def _count(self, count: int) -> None:
        self.fetched += count
        self.arrived(count)


def _finish(
    repo: RemoteRepo,
    manifest: Manifest,
    manifest_text: bytes,
    place: Path,
    target: Path,
    seed: Path | None,
    *,
    force: bool,
) -> None:
    """Check the whole bundle, and let it appear at `target`."""
    bundle = place / "bundle"
    _clear(bundle, {entry.name for entry in manifest.files})
    write_file(bundle / MANIFEST, [manifest_text])
    signature = repo.signature_bytes() if seed is None else _signature_in(seed)
    if signature is not None:
        write_file(bundle / SIGNATURE, [signature])
    failed = next((check for check in verify_bundle(bundle) if not check.ok), None)
    if failed is not None:
        shutil.rmtree(place, ignore_errors=True)
        detail = failed.detail.replace(f"{bundle}{os.sep}", "")
        raise BundleError(f"bundle is not valid: {repo.ref} ({failed.name}): {detail}")
    if (bundle / "reports").is_dir():
        sync_folder(bundle / "reports")
    sync_folder(bundle)
    put_in_place(bundle, target, replace=force)
    sync_folder(target.parent)


def _signature_in(folder: Path) -> bytes | None:
    """The signature beside the same bundle in the cache, where what was pulled is complete."""
    path = folder / SIGNATURE
    return read_bytes(path) if path.is_file() else None


def _clear(bundle: Path, declared: set[str]) -> None:
    """Remove what a pull of another revision left, or a replaced bundle."""
    for path in sorted(bundle.rglob("*"), reverse=True):
        name = path.relative_to(bundle).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in declared:
            path.unlink()
