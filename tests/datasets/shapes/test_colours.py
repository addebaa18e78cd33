"""The colours in which label maps of the scenes are shown."""

from __future__ import annotations

import numpy as np

from opentrans_cli.datasets.shapes.classes import CLASSES, COLOURS, OBJECTS
from opentrans_cli.datasets.shapes.colours import natural_colours
from opentrans_cli.datasets.shapes.dataset import ShapesDataset
from opentrans_cli.datasets.shapes.objects import RGB


def test_every_class_has_a_colour_of_its_own() -> None:
    colours = natural_colours()
    assert colours.shape == (len(CLASSES), 3)
    assert len(np.unique(colours, axis=0)) == len(CLASSES)


def test_each_colour_word_covers_its_own_colour() -> None:
    colours = natural_colours().tolist()
    for number, word in enumerate(COLOURS):
        assert list(RGB[word]) in colours[8 * number : 8 * number + 8]


def test_grounds_are_shown_near_the_mean_of_their_texture() -> None:
    dataset = ShapesDataset("train", count=60)
    samples = [dataset[index] for index in range(60)]
    for index in range(len(OBJECTS), len(CLASSES)):
        pixels = np.concatenate([sample.image[sample.label_map == index] for sample in samples])
        assert np.abs(pixels.mean(axis=0) - natural_colours()[index]).max() < 45
