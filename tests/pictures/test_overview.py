"""Grids of pictures: places, sizes, blanks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.pictures.legend import LegendItem
from opentrans_cli.pictures.overview import BLANK, GAP, overview

RED, BLUE = (250, 10, 10), (10, 10, 250)


def filled(colour: tuple[int, int, int], *, width: int = 50, height: int = 50) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_each_picture_stands_in_its_row_and_column() -> None:
    rows = [{"image": filled(RED), "truth": filled(BLUE)}, {"image": Image.new("RGB", (9, 9), BLUE)}]
    page = overview(rows, ["image", "truth"], cell=64)
    top = page.height - 2 * (64 + GAP)
    places = {(r, c): (GAP + c * (64 + GAP) + 32, top + r * (64 + GAP) + 32) for r in range(2) for c in range(2)}
    assert page.width == GAP + 2 * (64 + GAP)
    assert page.getpixel(places[0, 0]) == RED
    assert page.getpixel(places[0, 1]) == BLUE
    assert page.getpixel(places[1, 0]) == BLUE
    assert page.getpixel(places[1, 1]) == BLANK


def test_wide_pictures_keep_their_proportions_and_make_low_rows() -> None:
    square = overview([{"a": filled(RED)}], ["a"], cell=100)
    wide = overview([{"a": filled(RED, width=200, height=50)}], ["a"], cell=100)
    assert square.height - wide.height == 75
    pixels = np.asarray(wide).reshape(-1, 3)
    assert (pixels == RED).all(axis=1).sum() == 100 * 25


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    checks = np.indices((16, 16)).sum(0) % 2 * 255
    page = overview([{"a": np.repeat(checks[..., None], 3, axis=-1).astype(np.uint8)}], ["a"], cell=64)
    body = np.asarray(page)[page.height - GAP - 64 : page.height - GAP, GAP : GAP + 64]
    assert set(np.unique(body)) == {0, 255}


def test_a_legend_stands_below() -> None:
    bare = overview([{"a": filled(RED)}], ["a"], cell=200)
    full = overview([{"a": filled(RED)}], ["a"], cell=200, legend=[LegendItem("cat", BLUE)])
    assert full.height > bare.height
    below = np.asarray(full)[bare.height :].reshape(-1, 3)
    assert (below == BLUE).all(axis=1).any()


def test_pictures_without_a_column_are_a_mistake_of_the_program() -> None:
    with pytest.raises(ValueError, match="pictures without a column"):
        overview([{"b": filled(RED)}], ["a"])
