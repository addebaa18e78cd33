"""Overlays: tinted by class, thin contours, legible size."""

from __future__ import annotations

import io

import numpy as np

from opentrans_cli.datasets.scenes import CLASSES
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.pictures.overlay import labelled, overlay, paint
from opentrans_cli.pictures.palette import class_colours

GREY = np.full((40, 60, 3), 100, np.uint8)
HALVES = np.repeat([[0] * 30 + [1] * 30], 40, axis=0)


def test_pixels_are_mixed_with_the_colour_of_their_class_except_on_contours() -> None:
    colours = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)
    picture = paint(GREY, HALVES, colours=colours, alpha=0.5)
    assert (picture[:, :29] == (150, 50, 50)).all()
    assert (picture[:, 29] == 255).all()
    assert (picture[:, 30:] == (50, 150, 50)).all()


def test_alpha_one_shows_the_class_colour_zero_the_image_and_no_class_the_image() -> None:
    colours = class_colours("ab")
    assert (paint(GREY, HALVES, colours=colours, alpha=1)[:, :29] == colours[0]).all()
    assert (paint(GREY, HALVES, colours=colours, alpha=0)[:, 30:] == 100).all()
    for unknown in (255, -1, 2):
        assert (paint(GREY, np.where(HALVES == 1, unknown, 0), colours=colours)[:, 30:] == GREY[:, 30:]).all()


def test_contours_are_one_pixel_wide_at_any_factor() -> None:
    for factor in (1, 2, 5):
        picture = paint(GREY, HALVES, colours=np.zeros((2, 3), np.uint8), factor=factor)
        assert picture.shape == (40 * factor, 60 * factor, 3)
        assert (picture[0] == 255).all(axis=-1).sum() == 1


def test_the_page_is_wide_enough_to_read() -> None:
    for shape in ((16, 16), (96, 96), (240, 320), (480, 100), (700, 1000)):
        page = overlay(np.zeros((*shape, 3), np.uint8), np.zeros(shape, int), ("cat",), colours=class_colours(("cat",)))
        assert 640 <= page.width < 1300 and max(page.size) >= 480, shape


def test_the_legend_shows_the_colours_of_exactly_the_classes_present() -> None:
    colours = class_colours("abcdef")
    label_map = np.array([[1] * 30 + [4] * 20 + [255] * 10] * 40)
    page = np.asarray(overlay(GREY, label_map, "abcdef", colours=colours, alpha=0.3))
    panel = {tuple(pixel) for pixel in page[:, 60 * 8 :].reshape(-1, 3).tolist()}
    assert [tuple(colour) in panel for colour in colours.tolist()] == [False, True, False, False, True, False]


def test_all_of_many_classes_find_a_place() -> None:
    label_map = np.arange(150).repeat(4).reshape(20, 30)
    names = [f"a rather long class name {index}" for index in range(150)]
    colours = class_colours(names)
    page = np.asarray(overlay(np.zeros((20, 30, 3), np.uint8), label_map, names, colours=colours))
    panel = {tuple(pixel) for pixel in page[:, 480:].reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in colours.tolist()} <= panel


def test_the_same_input_gives_the_same_bytes() -> None:
    dataset = ShapesDataset("val")

    def png() -> bytes:
        sample, buffer = dataset[3], io.BytesIO()
        assert sample.label_map is not None
        page = overlay(sample.image, sample.label_map, CLASSES, colours=class_colours(CLASSES))
        page.save(buffer, format="PNG")
        return buffer.getvalue()

    assert png() == png()


def test_a_word_stands_on_its_region_where_it_has_most_room_and_nowhere_without_room() -> None:
    label_map = np.zeros((40, 60), int)
    label_map[:, 30:] = 1
    label_map[3:5, 3:5] = 2
    flat = np.full((400, 600, 3), 100, np.uint8)
    drawn = np.asarray(labelled(flat, label_map, ("left", "right", "a tiny one"), size=20)) != flat
    rows, columns = np.nonzero(drawn.any(-1))
    for half in (columns < 300, columns >= 300):
        assert abs(rows[half].mean() - 200) < 30
    assert abs(columns[columns < 300].mean() - 150) < 30 and abs(columns[columns >= 300].mean() - 450) < 30
    assert not drawn[:100].any()  # nothing on the two pixels of the third
    stripes = np.full((130, 200), 255)
    for top, height in ((40, 16), (56, 15)):  # both lower than a line of text
        stripes[top : top + height] = top // 50
        page = np.asarray(labelled(np.full((130, 200, 3), 100, np.uint8), stripes, ("upper", "lower"), size=20)) != 100
        rows = np.nonzero(page.any((1, 2)))[0]
        assert rows.min() > 30 and rows.max() < 65  # of the second no word, which would stand on the first
