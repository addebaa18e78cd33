"""Colours of classes: fixed, well separated, neither black nor white.

The longest list of separate colours in matplotlib has 20, but published vocabularies have up to 1203 classes. This
module also lets `segment` make pictures without matplotlib.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Chosen by eye to stay apart at half opacity on photos; neighbours in the list differ in hue and brightness.
_FIRST = (
    (228, 60, 60),
    (52, 120, 214),
    (250, 190, 40),
    (60, 168, 84),
    (152, 80, 190),
    (70, 205, 220),
    (240, 125, 30),
    (232, 90, 180),
    (150, 100, 50),
    (170, 220, 70),
    (20, 110, 115),
    (250, 170, 170),
    (110, 110, 245),
    (130, 25, 60),
    (150, 215, 175),
    (205, 180, 245),
    (105, 115, 20),
    (25, 45, 125),
    (225, 205, 150),
    (255, 85, 125),
)
_LEVELS = range(0, 256, 15)


def class_colours(count: int) -> NDArray[np.uint8]:
    """RGB colours of classes 0 .. count-1, uint8 (count, 3); a longer list starts with the shorter one.

    Twenty are chosen by hand, each further one is the candidate farthest from all before it; after some
    3,000 the list repeats. Black, white, greys and glaring colours are left out.
    """
    colours = _chosen(min(max(count, len(_FIRST)), len(_candidates())))
    return colours[np.arange(count) % len(colours)]


@lru_cache(maxsize=1)
def _candidates() -> NDArray[np.int64]:
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3)
    brightest, darkest = grid.max(axis=1), grid.min(axis=1)
    spread = brightest - darkest
    muted = (brightest >= 85) & (brightest <= 240) & (spread >= 60) & (spread <= 190)
    candidates: NDArray[np.int64] = grid[muted].astype(np.int64)
    return candidates


def _distances(colours: NDArray[np.int64], colour: NDArray[np.int64]) -> NDArray[np.int64]:
    # "Redmean", a weighted Euclidean distance close to perception (T. Riemersma, compuphase.com/cmetric.htm);
    # in integers, so that the farthest candidate is the same on every platform.
    red = (colours[:, 0] + colour[0]) // 2
    squares = (colours - colour) ** 2
    distances: NDArray[np.int64] = (
        ((512 + red) * squares[:, 0] >> 8) + 4 * squares[:, 1] + ((767 - red) * squares[:, 2] >> 8)
    )
    return distances


@lru_cache(maxsize=8)
def _chosen(count: int) -> NDArray[np.uint8]:
    candidates = _candidates()
    chosen = [np.array(colour, dtype=np.int64) for colour in _FIRST]
    taken = [*chosen, np.zeros(3, dtype=np.int64), np.full(3, 255), np.full(3, 128)]
    nearest = np.min([_distances(candidates, colour) for colour in taken], axis=0)
    while len(chosen) < count:
        chosen.append(candidates[int(nearest.argmax())])
        nearest = np.minimum(nearest, _distances(candidates, chosen[-1]))
    return np.array(chosen, dtype=np.uint8)
