"""Colours in which label maps of `shapes` are shown: those of the things themselves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.shapes.classes import COLOURS, GROUNDS, SHAPES
from opentrans_cli.datasets.shapes.objects import RGB

GROUND_RGB = {
    "grass": (84, 130, 50),
    "sky": (150, 196, 236),
    "sand": (206, 176, 122),
    "water": (38, 100, 128),
    "brick": (138, 72, 52),
    "snow": (228, 234, 244),
}
"""About the mean of each texture."""


def natural_colours() -> NDArray[np.uint8]:
    """RGB of all classes, uint8 (70, 3): an object has its colour, from dark to pale by shape.

    So a wrong colour shows as another hue, and a wrong shape as another shade.
    """
    objects = [_shade(RGB[colour], step) for colour in COLOURS for step in range(len(SHAPES))]
    return np.array([*objects, *(GROUND_RGB[name] for name in GROUNDS)], dtype=np.uint8)


def _shade(colour: tuple[int, int, int], step: int) -> tuple[int, ...]:
    # From 3/8 black to 4/8 white; black itself cannot get darker and uses the pale half only.
    position = step if sum(colour) < 128 else step - 3
    if position < 0:
        return tuple(channel * (8 + position) // 8 for channel in colour)
    return tuple(channel + (255 - channel) * position // 8 for channel in colour)
