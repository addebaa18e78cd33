"""Colours of classes follow their names, are fixed and far apart."""

from __future__ import annotations

import colorsys

import numpy as np

from opentrans_cli.datasets.scenes import CLASSES, COLOURS, SHAPES
from opentrans_cli.pictures.palette import THINGS, class_colours

PLAIN = [f"thing {index}" for index in range(5000)]


def smallest_distance(colours: np.ndarray) -> int:
    gaps = np.abs(colours[:, None].astype(int) - colours[None].astype(int)).sum(-1)
    return int(gaps[~np.eye(len(colours), dtype=bool)].min())


def hue(colour: np.ndarray) -> float:
    return 360 * colorsys.rgb_to_hsv(*(colour / 255))[0]


def test_a_word_that_names_a_colour_gives_the_class_that_colour() -> None:
    named = {"red star": 0, "Orange ring": 39, "yellow": 60, "dark-green sofa": 120, "cyan bar": 180, "blue": 240}
    for (name, wanted), colour in zip(named.items(), class_colours(list(named)), strict=True):
        assert abs(hue(colour) - wanted) < 12, name
    black, white, light_blue = class_colours(["black cat", "white wall", "light blue car"]).astype(int)
    assert black.max() < 40 and white.min() > 215 and light_blue.min() > 150 and light_blue[2] > light_blue[0]
    assert (class_colours(["blue sky"]) == class_colours(["a blue"])).all()  # the colour wins over the thing
    assert (class_colours(["redwood", "blackberry"]) == class_colours(["x", "y"])).all()  # whole words only


def test_known_things_have_their_usual_colour_and_classes_of_one_colour_another_brightness() -> None:
    for code, things in THINGS.items():
        wanted = [int(code[place : place + 2], 16) for place in (1, 3, 5)]
        for thing in (*things.split(), f"{things.split()[0]}s", f"{things.split()[0]}-other-merged"):
            assert class_colours([thing])[0].tolist() == wanted, thing
    assert class_colours(["stop sign"]).tolist() == class_colours(["stopsign"]).tolist()
    assert smallest_distance(class_colours(["sky", "sky again", "the sky", "skies", "sea", "river", "water"])) > 15
    scenes = class_colours(CLASSES)
    assert smallest_distance(scenes) >= 15
    for place, name in enumerate(COLOURS[:-1]):  # black has no hue
        own = scenes[place * len(SHAPES) : (place + 1) * len(SHAPES)]
        assert all(abs(hue(colour) - hue(own[0])) < 8 for colour in own), name


def test_the_same_names_have_the_same_colours_for_ever_and_keep_them_when_classes_are_added() -> None:
    many = class_colours(PLAIN)
    assert many.dtype == np.uint8 and class_colours([]).shape == (0, 3)
    for count in (1, 7, 8, 150):
        assert np.array_equal(class_colours(PLAIN[:count]), many[:count])
    fixed = [
        [230, 159, 0],
        [86, 180, 233],
        [0, 158, 115],
        [204, 121, 167],
        [0, 114, 178],
        [213, 94, 0],
        [240, 228, 66],
        [150, 15, 105],
        [75, 30, 210],
        [150, 240, 150],
    ]
    assert many[:10].tolist() == fixed
    assert len(np.unique(many[:2000], axis=0)) == 2000


def test_colours_are_well_separated_for_people_who_see_no_red_or_no_green_as_well() -> None:
    for count, distance in ((20, 60), (150, 30), (1203, 0)):
        assert smallest_distance(class_colours(PLAIN[:count])) >= distance
    colours = class_colours(PLAIN[:1203]).astype(int)
    assert (colours.max(axis=1) - colours.min(axis=1)).min() >= 50
    # Machado, Oliveira & Fernandes 2009, severity 1, in linear light: another model than the palette's own.
    for matrix in (
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ):
        seen = np.clip((colours[:12] / 255.0) ** 2.2 @ np.array(matrix).T, 0, 1) ** (1 / 2.2) * 255
        assert smallest_distance(seen.round()) > 40
