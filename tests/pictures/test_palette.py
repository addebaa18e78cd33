"""Colours of classes are fixed and far apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from opentrans_cli.datasets.images import write_label_map
from opentrans_cli.pictures.palette import class_colours, colourise


def smallest_distance(colours: np.ndarray) -> int:
    gaps = np.abs(colours[:, None].astype(int) - colours[None].astype(int)).sum(-1)
    return int(gaps[~np.eye(len(colours), dtype=bool)].min())


def test_colours_stay_the_same_when_classes_are_added() -> None:
    many = class_colours(200)
    assert many.dtype == np.uint8
    for count in (1, 20, 21, 150):
        assert np.array_equal(class_colours(count), many[:count])
    assert class_colours(0).shape == (0, 3)


def test_colours_are_fixed_for_ever() -> None:
    assert class_colours(24)[18:].tolist() == [
        [225, 205, 150],
        [255, 85, 125],
        [105, 0, 180],
        [0, 150, 0],
        [60, 240, 135],
        [195, 15, 150],
    ]


def test_colours_are_well_separated() -> None:
    assert smallest_distance(class_colours(20)) > 60
    assert smallest_distance(class_colours(150)) > 30
    assert smallest_distance(class_colours(1203)) > 0


def test_no_class_looks_like_black_white_or_grey() -> None:
    colours = class_colours(1203).astype(int)
    assert (colours.max(axis=1) - colours.min(axis=1)).min() >= 50


def test_more_classes_than_colours_repeat_the_list() -> None:
    many = class_colours(5000)
    repeat = next(start for start in range(1000, 5000) if np.array_equal(many[start], many[0]))
    assert np.array_equal(many[repeat : repeat + 100], many[:100])


def test_each_pixel_of_a_coloured_label_map_has_the_colour_of_its_class() -> None:
    colours = class_colours(5)
    label_map = np.array([[0, 4, 5], [255, -1, 2]])
    picture = colourise(label_map, colours=colours, other=(7, 8, 9))
    assert picture.dtype == np.uint8
    assert picture[0, :2].tolist() == colours[[0, 4]].tolist()
    assert picture[1, 2].tolist() == colours[2].tolist()
    assert (picture[[0, 1, 1], [2, 0, 1]] == (7, 8, 9)).all()


def test_a_label_map_file_shows_the_same_colours(tmp_path: Path) -> None:
    label_map = np.arange(24).reshape(4, 6)
    colours = class_colours(24)
    write_label_map(tmp_path / "x.png", label_map, colours)
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.asarray(image.convert("RGB")), colourise(label_map, colours=colours))
