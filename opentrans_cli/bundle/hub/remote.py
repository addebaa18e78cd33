"""A repo of the Hub at one commit: reads its files, and inspects its bundle without downloading tensors."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.folder import MANIFEST, MAX_MANIFEST
from opentrans_cli.bundle.hub.client import HubRef, client, endpoint, hub_errors, retrying, silent_client
from opentrans_cli.bundle.manifest import Manifest
from opentrans_cli.bundle.rounds import recorded_counts
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError, HubError
from opentrans_cli.files.header import DTYPES, TensorHeader, is_lfs_pointer
from opentrans_cli.files.records import parse_json

COMMIT = re.compile(r"[0-9a-f]{40}")
_POINTER = 200  # bytes; the stand-in of a Git LFS file is smaller


@dataclass(frozen=True)
class RemoteRepo:
    """A repo at one commit. Every method raises HubError; after network errors requests are tried again."""

    ref: HubRef
    commit: str

    def manifest_bytes(self) -> bytes | None:
        """The text of `manifest.json`; None if the repo has none."""
        text = self._small_file(MANIFEST, MAX_MANIFEST)
        if text is not None and is_lfs_pointer(text):
            raise HubError(
                f"Git LFS pointer instead of the manifest: {self.ref}; ask its owner to upload the file itself"
            )
        return text

    def signature_bytes(self) -> bytes | None:
        """The signature of the bundle, which no manifest declares; None if the repo has none."""
        return self._small_file(layout.SIGNATURE, layout.MAX_SIGNATURE)

    def _small_file(self, name: str, most: int) -> bytes | None:
        from huggingface_hub.errors import EntryNotFoundError

        data = io.BytesIO()
        try:
            retrying(lambda: self.receive(name, data, most=most))
        except EntryNotFoundError:
            return None
        except Exception:
            with hub_errors(str(self.ref)):
                raise
        return data.getvalue()

    def parse(self, data: bytes) -> Manifest:
        """The manifest in the text `data`. Raises BundleError, naming the repo."""
        where = f"{MANIFEST} of {self.ref}"
        return Manifest.from_json(parse_json(data, where), where)

    def headers(self, name: str) -> dict[str, TensorHeader]:
        """Types and shapes in the tensor file `name`, of which no tensor is fetched."""
        with hub_errors(f"{self.ref}, {name}"), silent_client():
            found = retrying(
                lambda: client().parse_safetensors_file_metadata(self.ref.repo, name, revision=self.commit)
            )
        return {
            name: TensorHeader(DTYPES.get(info.dtype, info.dtype), tuple(info.shape))
            for name, info in found.tensors.items()
        }

    def check_sizes(self, manifest: Manifest) -> None:
        """HubError if a declared file is not there, or of another size than the manifest says."""
        names = [entry.name for entry in manifest.files]
        with hub_errors(str(self.ref)), silent_client():
            found = retrying(lambda: client().get_paths_info(self.ref.repo, names, revision=self.commit))
        sizes = {info.path: getattr(info, "size", None) for info in found}
        for entry in manifest.files:
            size = sizes.get(entry.name)
            if size != entry.bytes:
                has = "is missing" if size is None else f"has {size} bytes"
                hint = ", which may be a Git LFS pointer" if size is not None and size < _POINTER else ""
                raise HubError(
                    f"file on the Hub is not the declared one: {entry.name} of {self.ref} {has}{hint}, the manifest "
                    f"says {entry.bytes}; ask its owner to push the bundle again"
                )

    def receive(
        self,
        name: str,
        file: Any,
        *,
        most: int,
        size: int | None = None,
        arrived: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Append to `file` what it lacks of the file `name`, which has `size` bytes if that is known, `most` at most.

        Raises what the client raises, which goes on by itself where a connection broke.
        """
        from huggingface_hub import file_download, hf_hub_url, utils

        hub: Any = utils  # what it offers is public, but not declared
        headers = {**hub.build_hf_headers(library_name="opentrans"), "Accept-Encoding": "identity"}
        url = hf_hub_url(self.ref.repo, name, revision=self.commit, endpoint=endpoint())
        part: Any = _Part(file, most, f"{name} of {self.ref}", arrived)
        with silent_client():
            file_download.http_get(url, part, resume_size=file.tell(), headers=headers, expected_size=size)


class _Part:
    """A file that is arriving; it takes no more bytes than it may have."""

    def __init__(self, file: BinaryIO, most: int, name: str, arrived: Callable[[int], None]) -> None:
        self.file, self.most, self.name, self.arrived = file, most, name, arrived
        self.tell, self.seek, self.truncate = file.tell, file.seek, file.truncate

    def write(self, data: bytes) -> int:
        if self.file.tell() + len(data) > self.most:
            raise HubError(
                f"file on the Hub is too large: {self.name}, at most {self.most} bytes are read; tell its owner"
            )
        self.file.write(data)
        self.file.flush()  # what has arrived is not to be fetched again, whatever happens to this process
        self.arrived(len(data))
        return len(data)


def resolve(ref: HubRef, *, attempts: int = 5) -> RemoteRepo:
    """The repo at the commit its revision names now. Raises what the client raises."""
    if ref.revision and COMMIT.fullmatch(ref.revision):
        return RemoteRepo(ref, ref.revision)
    with silent_client():
        info = retrying(lambda: client().model_info(ref.repo, revision=ref.revision), attempts=attempts)
    if not COMMIT.fullmatch(info.sha or ""):
        raise HubError(f"the Hub names no commit: {ref}; check HF_ENDPOINT")
    return RemoteRepo(ref, str(info.sha))


@dataclass(frozen=True)
class RemoteBundle(Bundle):
    """See Bundle; whatever would read tensors raises BundleError. `path` is only a name."""

    repo: RemoteRepo
    manifest_size: int  # bytes of the manifest
    headers: dict[str, dict[str, TensorHeader]]  # by tensor file

    @property
    def size_bytes(self) -> int:
        """See Bundle."""
        return sum(entry.bytes for entry in self.manifest.files) + self.manifest_size

    def has(self, name: str) -> bool:
        """See Bundle; rounds that only tensors could count are taken as not there."""
        there = self.manifest.file(name) is not None
        return there and (name != layout.ROUNDS or recorded_counts(self.manifest) is not None)

    def file_path(self, name: str) -> Path:
        """There is none."""
        raise BundleError(f"tensors are not here: {name} of {self.repo.ref}; pull the bundle first")

    def tensor_headers(self, name: str) -> dict[str, TensorHeader]:
        """See Bundle."""
        return self.headers[name]


def open_remote(repo: RemoteRepo) -> RemoteBundle | None:
    """The bundle of a repo, its headers compared with its manifest; None if the repo holds none.

    A few requests for ranges, whatever its size. Raises BundleError for a bundle that is wrong, HubError for the rest.
    """
    text = repo.manifest_bytes()
    if text is None:
        return None
    manifest = repo.parse(text)
    headers = {}
    for entry in manifest.files:
        if entry.name.endswith(".safetensors"):
            headers[entry.name] = repo.headers(entry.name)
            layout.check_headers(manifest, entry.name, headers[entry.name])
    return RemoteBundle(Path(str(repo.ref)), manifest, repo, len(text), headers)
