"""Colours of classes are fixed and far apart."""

from __future__ import annotations

import numpy as np

from opentrans_cli.pictures.palette import class_colours


def smallest_distance(colours: np.ndarray) -> int:
    gaps = np.abs(colours[:, None].astype(int) - colours[None].astype(int)).sum(-1)
    return int(gaps[~np.eye(len(colours), dtype=bool)].min())


def test_colours_are_fixed_for_ever_and_stay_when_classes_are_added() -> None:
    many = class_colours(5000)
    assert many.dtype == np.uint8 and class_colours(0).shape == (0, 3)
    for count in (1, 20, 21, 150):
        assert np.array_equal(class_colours(count), many[:count])
    fixed = [[225, 205, 150], [255, 85, 125], [105, 0, 180], [0, 150, 0], [60, 240, 135], [195, 15, 150]]
    assert many[18:24].tolist() == fixed
    repeat = next(start for start in range(1000, 5000) if np.array_equal(many[start], many[0]))
    assert np.array_equal(many[repeat : repeat + 100], many[:100])


def test_colours_are_well_separated_and_none_looks_like_black_white_or_grey() -> None:
    for count, distance in ((20, 60), (150, 30), (1203, 0)):
        assert smallest_distance(class_colours(count)) > distance
    colours = class_colours(1203).astype(int)
    assert (colours.max(axis=1) - colours.min(axis=1)).min() >= 50
