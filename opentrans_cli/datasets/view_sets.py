"""View sets: which views there are of some pictures, and how each is made, so that any process makes any alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.images import resize_image
from opentrans_cli.datasets.picture_source import Picture, read_picture
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.datasets.streams import Stream
from opentrans_cli.errors import DataError, OptionError

DETAIL = 4
"""A large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size while its shorter side stays DETAIL times a view's:
even the smallest crop (0.45 of that side) is then shrunk further, never blown up."""

_CHOICE_SALT = 0x63686F696365  # keep these draws apart from those of other users of the same seed
_VIEW_SALT = 0x7669657773
_SMALLEST_AREA = 0.2


@dataclass(frozen=True, eq=False)
class Made:
    """The views of one piece of work."""

    pixels: NDArray[np.uint8]  # (B, S, S, 3), zeros where a picture is bad
    bad: dict[int, str]  # position in the piece, ascending -> what is wrong with its picture, and the next move


class Piece(Protocol):
    """A few views to make, complete in itself."""

    def run(self) -> Made:
        """The views; a function of the piece alone."""


class ViewSet(Protocol):
    """A fixed, ordered set of square views."""

    size: int

    def __len__(self) -> int:
        """How many views there are if no picture is bad."""

    def piece(self, rows: Sequence[int]) -> Piece:
        """The work of making views `rows`; neighbours of one picture share its decoding."""

    def name(self, row: int) -> str:
        """What view `row` is made of, for messages."""


class PhotoViews:
    """Of every picture its whole view and then one random crop, at most `limit` views altogether.

    View and crop are functions of the picture, its index in `pictures`, `size` and `seed`. Of more pictures than the
    limit lets in, a choice by `seed`, in the order of the listing.
    """

    def __init__(self, pictures: Sequence[Picture], *, size: int, limit: int, seed: int) -> None:
        """`size`: side of the views in pixels. Raises OptionError for a limit below 1."""
        self._count = _checked(limit, 2 * len(pictures))
        self._pictures, self.size, self._seed = pictures, size, seed
        drawn = Stream(seed ^ _CHOICE_SALT, 0).words(len(pictures))
        self._chosen: NDArray[np.int64] = np.sort(np.argsort(drawn, kind="stable")[: (self._count + 1) // 2])

    def __len__(self) -> int:
        return self._count

    def piece(self, rows: Sequence[int]) -> Piece:
        """The work of making views `rows`."""
        indices = [int(self._chosen[row // 2]) for row in rows]
        views = [(self._pictures[index], index, row % 2 == 1) for index, row in zip(indices, rows, strict=True)]
        return _PhotoPiece(tuple(views), self.size, self._seed)

    def name(self, row: int) -> str:
        """The name of the picture of view `row`."""
        return self._pictures[self._chosen[row // 2]].name


@dataclass(frozen=True)
class _PhotoPiece:
    views: tuple[tuple[Picture, int, bool], ...]  # picture, its index in the listing, whether to crop it
    size: int
    seed: int

    def run(self) -> Made:
        pixels = np.zeros((len(self.views), self.size, self.size, 3), np.uint8)
        bad: dict[int, str] = {}
        decoded = -1
        for position, (picture, index, cropped) in enumerate(self.views):
            try:
                if index != decoded:
                    image, decoded = read_picture(picture, shrink_to=DETAIL * self.size), index
            except DataError as error:
                bad[position] = str(error)
                continue
            view = random_view(image, self.size, self.seed, index) if cropped else whole_view(image, self.size)
            pixels[position] = view
        return Made(pixels, bad)


class SceneViews:
    """The first `limit` training scenes of the embedded data set `shapes`: one view each."""

    def __init__(self, *, size: int, limit: int) -> None:
        """`size`: side of the scenes in pixels. Raises OptionError for a limit below 1."""
        self.size, self._count = size, _checked(limit, limit)

    def __len__(self) -> int:
        return self._count

    def piece(self, rows: Sequence[int]) -> Piece:
        """The work of rendering scenes `rows`."""
        return _ScenePiece(tuple(rows), self.size)

    def name(self, row: int) -> str:
        """The scene of view `row`."""
        return f"scene {row}"


@dataclass(frozen=True)
class _ScenePiece:
    scenes: tuple[int, ...]
    size: int

    def run(self) -> Made:
        scenes = ShapesDataset("train", size=self.size, count=max(self.scenes) + 1)
        return Made(np.stack([scenes[index].image for index in self.scenes]), {})


def whole_view(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The middle square of `image` (H, W, 3), its shorter side resized to `size` (CLIP's own preprocessing)."""
    height, width = image.shape[:2]
    scale = size / min(height, width)
    resized = resize_image(image, (max(size, round(height * scale)), max(size, round(width * scale))))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def random_view(image: NDArray[np.uint8], size: int, seed: int, index: int) -> NDArray[np.uint8]:
    """A random square of `image` with 20-100 % of its largest square's area, resized to `size`.

    A function of its arguments: crops of different `index` are independent.
    """
    stream = Stream(seed ^ _VIEW_SALT, index)
    shorter = min(image.shape[:2])
    smallest = max(1, int(shorter * _SMALLEST_AREA**0.5))
    side = smallest + stream.below(shorter - smallest + 1)
    top = stream.below(image.shape[0] - side + 1)
    left = stream.below(image.shape[1] - side + 1)
    return resize_image(image[top : top + side, left : left + side], (size, size))


def _checked(limit: int, available: int) -> int:
    if limit < 1:
        raise OptionError(f"--image-limit must be at least 1: {limit}; leave it out for the default")
    return min(limit, available)
