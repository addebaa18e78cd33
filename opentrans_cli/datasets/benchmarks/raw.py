"""Downloads with label maps that cannot be read as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RawPicture:
    """A photo, and how its label map is made."""

    name: str  # of what is written, without suffix
    photo: Path
    labels: str  # the file that the labels come from, for messages
    read: Callable[[], NDArray[np.int64]]  # class indices (H, W), 65535 = none; raises PictureError


@dataclass(frozen=True)
class RawDownload:
    """The pictures of a split, as they were unpacked."""

    name: str  # what was read, for people
    home: Path  # folder that holds all of it
    pictures: tuple[RawPicture, ...]  # by name
