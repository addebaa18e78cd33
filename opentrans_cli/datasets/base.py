"""What every data set offers: samples with label maps, class names, and the classes without labels in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and, where it has one, its label map."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label_map: NDArray[np.int64] | None  # (H, W), class indices or the data set's ignore_index
    name: str  # unique within the data set; may contain "/"


class SegDataset(Protocol):
    """Images with label maps, by index; reading is lazy and a function of the index alone."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Class i of the label maps is `vocabulary.classes[i]`."""

    @property
    def ignore_index(self) -> int:
        """The id of pixels that are neither trained on nor scored."""

    @property
    def unseen(self) -> tuple[str, ...]:
        """Names of the classes that are never labelled in training; may be empty."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know of how the data were read, a line each; may be empty."""

    @property
    def default_crop(self) -> int:
        """A sensible side of square training crops, in pixels."""

    @property
    def fingerprint(self) -> str:
        """A digest "sha256:<hex>": equal for equal data, different for different data."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; raises IndexError past the end and DataError for a damaged file."""

    def name(self, index: int) -> str:
        """The name of sample `index`, without reading it."""
