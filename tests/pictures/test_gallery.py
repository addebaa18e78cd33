"""The page of labelled pictures: what it tells of each, and how large it gets."""

from __future__ import annotations

import io
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.pictures.gallery import GalleryColours, GalleryItem, add_gallery, label_picture, side_of
from opentrans_cli.pictures.page import Page
from opentrans_cli.pictures.palette import class_colours

NAMES = ("grass", "<b>sky</b>", "red star")


@pytest.fixture
def item(tmp_path: Path) -> GalleryItem:
    """A large photo turned by its EXIF data, and its label map with ids of 16 bits: 300 on the left, 2 on the right."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    Image.new("RGB", (600, 900), "white").save(tmp_path / "photo.jpg", exif=exif)
    ids = np.full((600, 900), 2, np.uint16)
    ids[:, :450] = 300
    Image.fromarray(ids).save(tmp_path / "labels.png")
    shares = {"red star": 0.5, "<b>sky</b>": 0.5}
    return GalleryItem("one", tmp_path / "labels.png", photo=tmp_path / "photo.jpg", label_link="x.png", classes=shares)


def test_colours_are_those_of_the_classes_by_id_of_any_width(item: GalleryItem) -> None:
    colours = GalleryColours(NAMES, (1, 2, 300))
    picture = label_picture(GalleryItem("one", item.label_map), colours, 90)
    assert picture.size == (90, 60)
    expected = class_colours(NAMES)
    painted = _opened(picture.content)
    assert np.abs(painted[:, 5:40] - expected[2].astype(int)).max() <= 24
    assert np.abs(painted[:, 50:85] - expected[1].astype(int)).max() <= 24
    assert colours.of("grass") == tuple(expected[0]) and colours.of("cow") is None


def test_a_photo_is_upright_and_its_labels_lie_on_it(item: GalleryItem) -> None:
    picture = label_picture(item, GalleryColours(NAMES, (1, 2, 300), background=2), 90)
    assert picture.size == (90, 60) and picture.link == "x.png"
    painted = _opened(picture.content)
    assert painted[:, 55:85].min() > 235  # the background stays as it is
    assert painted[:, 5:40].mean() < 225


def test_every_picture_is_told_with_its_classes_and_what_cannot_be_read_is_named(
    tmp_path: Path, item: GalleryItem
) -> None:
    page = Page("title", beside=tmp_path)
    lost = GalleryItem("lost", tmp_path / "none.png", classes={"grass": 1.0})
    many = GalleryItem("many", item.label_map, classes={f"class {n}": 1 / 40 for n in range(40)})
    faults = add_gallery(page, [item, lost, many], GalleryColours(NAMES, (1, 2, 300)))
    html = page.html()
    text = unescape(re.sub("<[^>]*>", " ", html))
    assert len(faults) == 1 and faults[0].startswith("lost: ")
    for told in ("<b>sky</b> 50 %", "red star 50 %", "grass 100 %", "class 23 2.5 %", "16 more 40 %"):
        assert told in " ".join(text.split()), told
    assert "class 24" in text.split("Pictures")[0] and "class 24" not in text.split("Pictures")[1]
    assert html.count("<img") == 3 and html.count('loading="lazy"') == 3


def test_of_more_than_a_thousand_pictures_the_page_says_so_and_many_are_small(tmp_path: Path) -> None:
    page = Page("title", beside=tmp_path)
    item = GalleryItem("x", tmp_path / "none.png", classes={"grass": 1.0})
    add_gallery(page, [item] * 1001, GalleryColours(NAMES, (0, 1, 2)))
    assert "The first 1,000 of 1,001 pictures are shown." in page.html()
    assert page.html().count("<article") == 1000
    assert [side_of(count) for count in (1, 48, 49, 240, 241, 1000)] == [480, 480, 320, 320, 192, 192]


def _opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
