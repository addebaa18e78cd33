"""What a repo of the Hub holds at one commit, and whether a file here is the same as one there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FileContent:
    """One file, by both names that a Hub may know it under: git's, and that of large files."""

    git: str
    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileContent:
        size = path.stat().st_size
        # Only tells whether a file has to be sent: a bundle is trusted by the SHA-256 sums of its manifest.
        git, sha = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                git.update(block)
                sha.update(block)
        return cls(git.hexdigest(), sha.hexdigest(), size)


@dataclass(frozen=True)
class RepoTree:
    """What a repo holds at one commit."""

    commit: str | None  # None: nothing was ever committed
    files: Mapping[str, Any]  # path -> RepoFile of the client

    def has(self, name: str, content: FileContent) -> bool:
        """Whether the file is there, the same byte for byte."""
        found = self.files.get(name)
        if found is None or found.size != content.bytes:
            return False
        return bool(found.blob_id == content.git if found.lfs is None else found.lfs.sha256 == content.sha256)
