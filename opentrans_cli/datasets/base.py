"""What every data set offers: samples with label maps, class names, and which of them training never sees."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import OptionError

SMALLEST_SIZE = 32
"""Smallest scene or crop in pixels: the stride of the towers."""

Split = Literal["train", "val"]


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
    def default_crop(self) -> int:
        """A sensible side of square training crops, in pixels."""

    @property
    def fingerprint(self) -> str:
        """A digest "sha256:<hex>": equal for equal data, another for other data."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Sample `index`; raises IndexError past the end and DataError for a damaged file."""

    def name(self, index: int) -> str:
        """The name of sample `index`, without reading it."""


def dataset_name(name: str | None, data: DatasetOptions) -> str:
    """The data set `name`; without one the user's own folder if there are images of it, else the embedded scenes."""
    return name or ("folder" if data.images is not None else "shapes")


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """What a user may say about a data set; a data set refuses what it has no use for."""

    split: Split = "train"  # shapes: which scenes; folder: no effect, `split_list` selects
    images: Path | None = None  # folder of images
    labels: Path | None = None  # folder of label maps
    classes: Path | None = None  # class file, see Vocabulary.from_file
    ignore: int | None = None  # id of unlabelled pixels; None = 255
    split_list: Path | None = None  # file with one image stem per line
    size: int | None = None  # side of the scenes (shapes) or of the training crops (folder), in pixels
    limit: int | None = None  # use only the first so many samples
    hold_out: tuple[str, ...] = ()  # class names to leave unlabelled in training

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise OptionError(f"no such split: --split {self.split}; use {' or '.join(get_args(Split))}")
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"at least one sample is needed: --limit {self.limit}; use 1 or more")
        if self.size is not None and self.size < SMALLEST_SIZE:
            raise OptionError(f"too small to see anything: --size {self.size}; use {SMALLEST_SIZE} or more")
        if self.ignore is not None and not 0 <= self.ignore <= 65535:
            raise OptionError(f"not an id a label map can hold: --ignore {self.ignore}; use 0 to 65535")
