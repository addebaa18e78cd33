"""Some photos with their label maps over them, for a look with one's own eyes."""

from __future__ import annotations

import io
from collections.abc import Sequence, Set

import numpy as np

from opentrans_cli.datasets.images import resize_image, resize_label_map
from opentrans_cli.datasets.pairs import Pair, read_pair
from opentrans_cli.datasets.scan import Facts
from opentrans_cli.pictures.overlay import overlay
from opentrans_cli.pictures.palette import class_colours
from opentrans_cli.steps.check.ids import DataClasses

SAMPLES = 5
LONGEST = 960
"""Longer side of a drawn photo in pixels."""


def chosen(facts: Sequence[Facts], told: Set[Pair]) -> list[Facts]:
    """Up to SAMPLES pairs that can be drawn, spread evenly; two of them are among those `told` of, if there are."""
    sound = [each for each in facts if each.photo and each.label_map and not each.error]
    first = [each for each in sound if each.pair in told][:2]
    others = [each for each in sound if each not in first]
    wanted = min(SAMPLES - len(first), len(others))
    return [*first, *(others[(2 * number + 1) * len(others) // (2 * wanted)] for number in range(wanted))]


def drawn(pair: Pair, classes: DataClasses) -> bytes:
    """The photo with its label map over it, and beside it what is there, ids without a class by number; as PNG."""
    image, label_map = read_pair(pair)
    height, width = label_map.shape
    scale = LONGEST / max(height, width)
    if scale < 1:
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        image, label_map = resize_image(image, shape), resize_label_map(label_map, shape)
    found, places = np.unique(label_map, return_inverse=True)
    foreign = classes.foreign(found.tolist())
    names = [*classes.names, *(f"id {number}" for number in foreign)]
    row = {number: place for place, number in enumerate([*classes.ids, *foreign]) if number not in classes.void}
    rows = np.array([row.get(number, -1) for number in found.tolist()])[places].reshape(label_map.shape)
    buffer = io.BytesIO()
    overlay(image, rows, names, colours=class_colours(names)).save(buffer, format="PNG")
    return buffer.getvalue()
