"""Colours of classes by their names: fixed, well separated, neither black nor white.

A word that names a colour gives the class that colour, and known things have their usual one. All other classes get
colours that people with red-green blindness can tell apart as well, as long as there are any. This module lets
`segment` make pictures without matplotlib, whose longest list of separate colours has 20.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL.ImageColor import colormap, getrgb

RGB = tuple[int, int, int]

THINGS: dict[str, str] = {
    "#87ceeb": "sky",
    "#d5deea": "cloud fog mist",
    "#5aa83c": "grass lawn field meadow turf",
    "#2c7a34": "tree forest plant vegetation bush shrub leaf leaves foliage palm fern hedge",
    "#737378": "road street asphalt tarmac highway lane runway",
    "#aaa4a6": "sidewalk pavement concrete curb cement gravel",
    "#2a6496": "water sea river lake ocean pool pond swimmingpool",
    "#dcbe82": "sand beach desert",
    "#e2eaf4": "ice glacier",
    "#a8523e": "brick bricks",
    "#8a6a48": "soil dirt earth mud ground terrain",
    "#8c8478": "rock stone mountain cliff hill",
    "#e6691e": "fire flame carrot pumpkin basketball",
    "#f4cf3c": "sun banana lemon corn schoolbus",
    "#c8342c": "stopsign strawberry cherry blood hydrant firehydrant",
    "#3f9a4a": "broccoli lettuce cucumber frog",
    "#96643c": "wood wooden bear table desk cabinet diningtable",
    "#e4c48c": "bread pizza",
    "#ded8c8": "sheep",
    "#8e8e96": "elephant mouse rat",
}
"""Colours of things that most people would draw in this colour, each with its things in the singular.

Two words may be written as one, such as "stop sign".
"""

# The colours of Okabe and Ito (2008) for people with and without colour blindness, without black.
_FIRST: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
    (240, 228, 66),
)
_LEVELS = range(0, 256, 15)
_APART, _SHADES = 15000, 500
"""Least squared distance of a colour to all others, and of a shade of a colour to all others."""

_WEIGHTS = (1, 3, 3)
"""Of distances as seen with all cones, without red and without green ones. The last two are always smaller: without
a weight they alone would choose, and colours of long lists would look alike to everybody.
"""

# What remains of linear red, green and blue without one kind of cone, in thousandths (Vienot, Brettel & Mollon 1999).
_BLIND = np.array([[[112, 888, 0], [112, 888, 0], [4, -4, 1000]], [[293, 707, 0], [293, 707, 0], [-21, 21, 1000]]])


def class_colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """RGB colours of the classes `names`, uint8 (N, 3); the same names always have the same.

    Classes whose names say a colour or a known thing come first: two of one colour differ in brightness, in their
    order. Each other class then gets the candidate that is farthest from all colours so far, for people with normal
    vision and with either kind of red-green blindness; after some 2,000 classes colours come again.
    """
    hints = [_hint(name) for name in names]
    chosen = _Chosen()
    found: dict[int, RGB] = {index: chosen.shade(hint) for index, hint in enumerate(hints) if hint is not None}
    found |= {index: chosen.farthest() for index, hint in enumerate(hints) if hint is None}
    return np.array([found[index] for index in range(len(names))], dtype=np.uint8).reshape(-1, 3)


def _hint(name: str) -> RGB | None:
    """The colour that a class name says, or that of the known thing in it."""
    words = re.findall(r"[^\W\d_]+", name.lower())
    joined = [first + second for first, second in pairwise(words)]  # "light blue" is "lightblue"
    for known in (_named, _thing):
        for word in (*joined, *words):
            if (colour := known(word)) is not None:
                return colour
    return None


def _named(word: str) -> RGB | None:
    if word not in colormap:
        return None
    # From 20 to 236: black and white, and colours as glaring as pure red, are hard to look at.
    red, green, blue = (20 + channel * 216 // 255 for channel in getrgb(word)[:3])
    return red, green, blue


def _thing(word: str) -> RGB | None:
    return _things().get(word) or _things().get(word.removesuffix("s"))


@lru_cache(maxsize=1)
def _things() -> dict[str, RGB]:
    return {thing: getrgb(colour)[:3] for colour, things in THINGS.items() for thing in things.split()}


class _Chosen:
    """Colours that are taken, and how far every candidate is from the nearest of them."""

    def __init__(self) -> None:
        self._taken: list[RGB] = []
        self._first = list(_FIRST)
        self._begin()

    def shade(self, colour: RGB) -> RGB:
        """`colour`, or the first brighter or darker one that differs from all that are taken."""
        return self._take(next((shade for shade in _shades(colour) if self._free(shade, _SHADES)), colour))

    def farthest(self) -> RGB:
        """The next colour of a class whose name says nothing."""
        while self._first:
            colour = self._first.pop(0)
            if self._free(colour, _APART):
                return self._take(colour)
        if self._nearest.max() == 0:  # every candidate is taken
            self._begin()
        return self._take(_rgb(_candidates()[int(self._nearest.argmax())]))

    def _begin(self) -> None:
        self._nearest = np.full(len(_candidates()), np.iinfo(np.int64).max)
        for colour in ((0, 0, 0), (255, 255, 255), (128, 128, 128)):
            self._avoid(colour)

    def _free(self, colour: RGB, least: int) -> bool:
        return not self._taken or bool(_distances(np.array(self._taken), np.array(colour)).min() >= least)

    def _take(self, colour: RGB) -> RGB:
        self._taken.append(colour)
        self._avoid(colour)
        return colour

    def _avoid(self, colour: RGB) -> None:
        for weight, candidates, seen in zip(_WEIGHTS, _candidate_views(), _views(np.array([colour])), strict=True):
            np.minimum(self._nearest, weight * _distances(candidates, seen[0]), out=self._nearest)


def _shades(colour: RGB) -> Iterator[RGB]:
    """`colour`, then further and further towards white and towards black in turn."""
    own = np.array(colour)
    yield colour
    for step in range(1, 8):
        yield _rgb(own + (246 - own) * step // 9)
        yield _rgb(own * (12 - step) // 12)


@lru_cache(maxsize=1)
def _candidates() -> NDArray[np.int64]:
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    brightest, darkest = grid.max(axis=1), grid.min(axis=1)
    spread = brightest - darkest
    light = grid @ (2, 5, 1) // 8  # dark blues look black at half opacity, pale yellows white
    muted = (brightest <= 240) & (spread >= 60) & (spread <= 190) & (light >= 60) & (light <= 215)
    candidates: NDArray[np.int64] = grid[muted].astype(np.int64)
    return candidates


@lru_cache(maxsize=1)
def _candidate_views() -> tuple[NDArray[np.int64], ...]:
    return tuple(_views(_candidates()))


def _views(colours: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """`colours` (N, 3) as they are, and as people without red or without green cones see them."""
    yield colours
    # Squares stand in for the curve of sRGB, and the square root is the same on every platform.
    for kind in _BLIND:
        linear = np.clip(colours**2 @ kind.T // 1000, 0, 255**2)
        yield np.rint(np.sqrt(linear)).astype(np.int64)


def _distances(colours: NDArray[np.int64], colour: NDArray[np.int64]) -> NDArray[np.int64]:
    # "Redmean", a weighted Euclidean distance close to perception (T. Riemersma, compuphase.com/cmetric.htm);
    # in integers, so that the farthest candidate is the same on every platform.
    red = (colours[:, 0] + colour[0]) // 2
    squares = (colours - colour) ** 2
    distances: NDArray[np.int64] = (
        ((512 + red) * squares[:, 0] >> 8) + 4 * squares[:, 1] + ((767 - red) * squares[:, 2] >> 8)
    )
    return distances


def _rgb(colour: NDArray[np.int64]) -> RGB:
    return int(colour[0]), int(colour[1]), int(colour[2])
