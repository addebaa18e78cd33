"""What every data set offers: samples with label maps, class names, and the classes without labels in training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and, where it has one, its label map."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label_map: NDArray[np.int64] | None  # (H, W), class indices or the data set's ignore_index
    name: str  # unique within the data set; may contain "/"


class TrueSegment(NamedTuple):
    """One object, or all of a class that has no objects, in an image."""

    id: int  # its value in the map, from 1 to 2 ** 24 - 1
    class_index: int
    crowd: bool  # objects that nobody told apart


@dataclass(frozen=True, eq=False)
class PanopticTruth:
    """Every pixel of one image in one segment or in none."""

    ids: NDArray[np.int32]  # (H, W), 0 for none
    segments: tuple[TrueSegment, ...]  # in the order of the file; each has a pixel


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


class PanopticDataset(SegDataset, Protocol):
    """A data set that also knows the single objects."""

    @property
    def things(self) -> tuple[bool, ...]:
        """By class, whether it consists of objects that are told apart."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The id that each class has in files of COCO's formats."""

    def image_id(self, index: int) -> int | str:
        """The id that sample `index` has in them."""

    def panoptic(self, index: int) -> PanopticTruth:
        """The segments of sample `index`, at the size of its image; raises as reading the sample does."""


def panoptic_dataset(samples: SegDataset) -> PanopticDataset | None:
    """`samples` if they know the single objects: they have `panoptic`, and their `things` are not None."""
    known = getattr(samples, "things", None) is not None and hasattr(samples, "panoptic")
    return cast(PanopticDataset, samples) if known else None
