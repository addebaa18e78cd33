"""How much room a folder takes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class FolderSize(NamedTuple):
    """What lies below a folder."""

    bytes: int
    files: int
    complete: bool  # False: there are more files than were to be counted


def folder_size(folder: Path, *, most: int | None = None) -> FolderSize:
    """The files below a folder, at most so many; links count as links. A folder that is not there is empty."""
    size = files = 0
    for root, _, names in os.walk(folder):
        for name in names:
            if files == most:
                return FolderSize(size, files, False)
            try:
                size += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue  # deleted meanwhile
            files += 1
    return FolderSize(size, files, True)
