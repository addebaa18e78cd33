"""A picture of a download whose label map cannot be read as it is."""

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
