"""A bundle looked at where it lies on the Hub: its manifest and the headers of its files, and no tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from opentrans_cli.bundle import layout
from opentrans_cli.bundle.hub.remote import RemoteRepo
from opentrans_cli.bundle.nested import saved_rounds
from opentrans_cli.bundle.rounds import recorded_counts
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.header import Header


@dataclass(frozen=True)
class RemoteBundle(Bundle):
    """See Bundle; whatever would read tensors raises BundleError. `path` is only a name."""

    repo: RemoteRepo
    manifest_size: int  # bytes of the manifest
    headers: dict[str, dict[str, Header]]  # by tensor file

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

    def saved_rounds(self) -> tuple[int, ...]:
        """See Bundle."""
        return saved_rounds(self.headers.get(layout.ROUND_WEIGHTS, {}))

    def _tensors(self, name: str) -> dict[str, NDArray[Any]]:
        raise BundleError(f"tensors are not here: {name} of {self.repo.ref}; pull the bundle first")


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
