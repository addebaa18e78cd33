"""pull: a bundle from the Hub, complete and checked, or nothing.

Beside the target stands a hidden folder until the bundle is whole: files that are arriving, named after the sha256 that
is expected of them, and the bundle as far as it is known to be right. A pull that was killed goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.folder import MANIFEST, check_replaceable
from opentrans_cli.bundle.hub.client import hub_errors, is_transient, retrying, silent_client
from opentrans_cli.bundle.hub.remote import Body, RemoteRepo
from opentrans_cli.bundle.manifest import FileEntry, Manifest
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.files.atomic import locked, put_in_place, sync_folder, write_file
from opentrans_cli.files.digest import file_sha256
from opentrans_cli.files.header import is_lfs_pointer

_BLOCK = 1 << 20
_PROGRESS = 1 << 20  # bytes that must have arrived for another row of tries


@dataclass(frozen=True)
class Talk:
    """How a pull talks: lines, and bytes that arrived."""

    say: Callable[[str], None] = lambda text: None
    arrived: Callable[[int], None] = lambda count: None


def download(
    repo: RemoteRepo, manifest_text: bytes, target: Path, *, force: bool, seed: Path | None, talk: Talk
) -> int:
    """Write the bundle that `manifest_text` declares at `target`, and return the bytes that were fetched.

    Only declared files are fetched, never more than their declared bytes, and every one is hashed before the bundle
    appears. seed: a folder that may hold some of them already. Raises HubError or BundleError; `target` is then as it
    was. A second pull of the same bundle waits, and finds it there.
    """
    manifest = repo.parse(manifest_text)
    target = Path(os.path.realpath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _workplace(target) as place:
            if _is_there(target, manifest, manifest_text):
                shutil.rmtree(place, ignore_errors=True)
                return 0
            check_replaceable(target, force=force)
            _check_room(place, manifest, repo)
            fetched = _fill(repo, manifest, place, seed, talk)
            _finish(repo, manifest, manifest_text, place, target, force=force)
            shutil.rmtree(place, ignore_errors=True)
            return fetched
    except OSError as error:
        raise BundleError(
            f"cannot write the bundle: {str(target)!r}, {error.strerror or error}; "
            "check free space and permissions, or choose another --out"
        ) from error


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


def _check_room(place: Path, manifest: Manifest, repo: RemoteRepo) -> None:
    present = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    needed, free = sum(entry.bytes for entry in manifest.files) - present, shutil.disk_usage(place).free
    if needed > free:
        raise BundleError(f"not enough room: {repo.ref} needs {needed} bytes, {free} are free; choose another --out")


def _fill(repo: RemoteRepo, manifest: Manifest, place: Path, seed: Path | None, talk: Talk) -> int:
    """Bring every declared file into `place`/bundle, right to the last bit; returns the bytes that were fetched."""
    bundle = place / "bundle"
    (bundle / "reports").mkdir(parents=True, exist_ok=True)
    fetched = 0
    for entry in manifest.files:
        final, part = bundle / entry.name, place / f"{entry.sha256}.part"
        if _is_right(final, entry):
            talk.arrived(entry.bytes)
            continue
        if seed is not None and not part.exists() and _is_right(seed / entry.name, entry):
            shutil.copyfile(seed / entry.name, part)
        fetched += _Fetch(repo, entry, part, talk).run()
        os.replace(part, final)
    return fetched


def _is_right(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256


class _Fetch:
    """One file on its way into `part`."""

    def __init__(self, repo: RemoteRepo, entry: FileEntry, part: Path, talk: Talk) -> None:
        self.repo, self.entry, self.part, self.talk = repo, entry, part, talk
        self.fetched = 0

    def run(self) -> int:
        """Returns the bytes that were fetched, once all are there and right. Raises HubError."""
        for _ in range(2):
            if self._complete() == self.entry.sha256:
                return self.fetched
            self.part.unlink()
            self.talk.say(f"{self.entry.name} of {self.repo.ref} arrived damaged; fetching it once more")
        raise HubError(
            f"what arrives is not what was published: {self.entry.name} of {self.repo.ref} does not match its hash; "
            "nothing was written, try again later or tell its owner"
        )

    def _complete(self) -> str:
        """Fetches what is missing, goes on where the connection broke, and returns the hash of the whole."""
        with hub_errors(f"{self.repo.ref}, {self.entry.name}"), silent_client():
            while True:
                before = self._size()
                try:
                    return retrying(self._append, say=self.talk.say)
                except Exception as error:
                    if not is_transient(error) or self._size() < before + _PROGRESS:
                        raise

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _append(self) -> str:
        """One request for what is missing."""
        if self._size() > self.entry.bytes:
            self.part.unlink()
        sha = hashlib.sha256()
        with open(self.part, "a+b") as file:
            file.seek(0)
            while block := file.read(_BLOCK):
                sha.update(block)
            if file.tell() < self.entry.bytes:
                sha = self._receive(file, sha)
            file.flush()
            os.fsync(file.fileno())
        return sha.hexdigest()

    def _receive(self, file: Any, sha: Any) -> Any:
        start = file.tell()
        with self.repo.opened(self.entry.name, start) as body:
            body = self._refuse_pointer(body)
            self.repo.check_size(self.entry, body)
            if body.start != start:  # the server sends the whole file whatever is asked
                file.truncate(0)
                start, sha = 0, hashlib.sha256()
            for chunk in body.chunks:
                chunk = chunk[: self.entry.bytes - start]
                file.write(chunk)
                file.flush()  # what has arrived is not to be fetched again, whatever happens to this process
                sha.update(chunk)
                start += len(chunk)
                self.fetched += len(chunk)
                self.talk.arrived(len(chunk))
                if start == self.entry.bytes:
                    return sha
        raise ConnectionError("answer was cut off")

    def _refuse_pointer(self, body: Body) -> Body:
        """`body` again; HubError if it is the stand-in of a Git LFS file that was never uploaded."""
        if body.start or body.size == self.entry.bytes:
            return body
        first = next(body.chunks, b"")
        if is_lfs_pointer(first[:64]):
            raise HubError(
                f"Git LFS pointer instead of the file: {self.entry.name} of {self.repo.ref}; "
                "ask its owner to upload the file itself"
            )
        return body._replace(chunks=chain([first], body.chunks))


def _finish(
    repo: RemoteRepo, manifest: Manifest, manifest_text: bytes, place: Path, target: Path, *, force: bool
) -> None:
    """Check the whole bundle, and let it appear at `target`."""
    bundle = place / "bundle"
    _clear(bundle, {entry.name for entry in manifest.files})
    write_file(bundle / MANIFEST, [manifest_text])
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


def _clear(bundle: Path, declared: set[str]) -> None:
    """Remove what a pull of another revision left, or a replaced bundle."""
    for path in sorted(bundle.rglob("*"), reverse=True):
        name = path.relative_to(bundle).as_posix()
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif name not in declared:
            path.unlink()
