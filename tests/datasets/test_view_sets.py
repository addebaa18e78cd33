"""View sets: a view is a function of its picture, index, size and seed, and of nothing that was made before."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opentrans_cli.datasets.images import read_image, resize_image
from opentrans_cli.datasets.picture_source import Picture, list_pictures
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.datasets.view_sets import DETAIL, Made, PhotoViews, SceneViews, ViewSet, random_view, whole_view
from opentrans_cli.errors import OptionError

SHAPES = [(40, 64), (64, 40), (32, 32), (90, 33), (20, 25)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Picture, ...]:
    """Five photos of different shapes."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number, (height, width) in enumerate(SHAPES):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return list_pictures(folder)


def made(view_set: ViewSet, rows: list[int]) -> Made:
    """As another process makes it."""
    return pickle.loads(pickle.dumps(view_set.piece(rows))).run()


def photos(pictures: tuple[Picture, ...], *, limit: int = 100, seed: int = 0, size: int = 32) -> PhotoViews:
    return PhotoViews(pictures, size=size, limit=limit, seed=seed)


def test_every_picture_gives_its_whole_view_and_one_crop(pictures: tuple[Picture, ...]) -> None:
    photo_views = photos(pictures, seed=5)
    found = made(photo_views, list(range(10)))
    assert found.pixels.shape == (len(photo_views), 32, 32, 3) and found.pixels.dtype == np.uint8 and found.bad == {}
    for index, picture in enumerate(pictures):
        image = read_image(picture.path)
        assert np.array_equal(found.pixels[2 * index], whole_view(image, 32))
        assert np.array_equal(found.pixels[2 * index + 1], random_view(image, 32, 5, index))
        assert photo_views.name(2 * index) == photo_views.name(2 * index + 1) == picture.name


@given(rows=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 2**63))
def test_a_view_does_not_depend_on_what_is_made_with_it(
    pictures: tuple[Picture, ...], rows: list[int], seed: int
) -> None:
    photo_views = photos(pictures, seed=seed, size=8)
    assert np.array_equal(made(photo_views, rows).pixels, made(photo_views, list(range(10))).pixels[rows])


@given(limit=st.integers(1, 12), seed=st.integers(0, 2**63))
def test_the_limit_counts_views_and_the_seed_chooses_pictures_in_their_order(
    pictures: tuple[Picture, ...], limit: int, seed: int
) -> None:
    photo_views, everything = photos(pictures, limit=limit, seed=seed), photos(pictures, seed=seed)
    assert len(photo_views) == min(limit, 10)
    names = [photo_views.name(row) for row in range(len(photo_views))]
    assert names[::2] == sorted(set(names)) and names[1::2] == names[: len(names) // 2 * 2 : 2]
    every = [everything.name(row) for row in range(10)]
    chosen = [every.index(name) + row % 2 for row, name in enumerate(names)]
    assert np.array_equal(
        made(photo_views, list(range(len(photo_views)))).pixels, made(everything, list(range(10))).pixels[chosen]
    )


def test_every_picture_is_chosen_by_some_seed_and_crops_differ_by_seed_and_index(
    pictures: tuple[Picture, ...],
) -> None:
    assert {photos(pictures, limit=2, seed=seed).name(0) for seed in range(30)} == {p.name for p in pictures}
    image = read_image(pictures[0].path)
    crops = {random_view(image, 16, seed, index).tobytes() for seed in range(5) for index in range(5)}
    assert len(crops) == 25


def test_bad_pictures_are_reported_by_position_and_leave_the_others_alone(pictures: tuple[Picture, ...]) -> None:
    gone = Picture(Path("gone.png"))
    found = made(photos((pictures[0], gone, pictures[2])), [5, 3, 2, 0])
    assert sorted(found.bad) == [1, 2]
    assert set(found.bad.values()) == {"image not found: gone.png; check the path"}
    assert not found.pixels[1:3].any()
    assert np.array_equal(found.pixels[[3, 0]], made(photos(pictures), [0, 5]).pixels)


def test_a_large_jpeg_is_decoded_at_a_fraction_that_still_has_detail_times_the_size(tmp_path: Path) -> None:
    smooth = (np.add.outer(np.arange(300), np.arange(400)) // 3).astype(np.uint8)
    Image.fromarray(np.dstack([smooth] * 3)).save(tmp_path / "x.jpg", quality=95)
    for size, fraction in [(32, 2), (40, 1), (16, 4)]:
        image = read_image(tmp_path / "x.jpg", shrink_to=DETAIL * size)
        assert image.shape == (300 // fraction, 400 // fraction, 3)
        found = made(photos(list_pictures(tmp_path), size=size), [0, 1]).pixels
        assert np.array_equal(found, [whole_view(image, size), random_view(image, size, 0, 0)])


def test_the_scenes_are_the_training_scenes_of_the_embedded_data_set() -> None:
    scene_views, scenes = SceneViews(size=64, limit=3), ShapesDataset("train", size=64, count=3)
    assert len(scene_views) == 3 and scene_views.name(2) == "scene 2"
    assert np.array_equal(made(scene_views, [2, 0]).pixels, [scenes[2].image, scenes[0].image])


def test_a_limit_below_one_is_refused(pictures: tuple[Picture, ...]) -> None:
    for limit in (0, -3):
        with pytest.raises(OptionError, match=f"--image-limit must be at least 1: {limit}"):
            photos(pictures, limit=limit)
        with pytest.raises(OptionError, match=f"--image-limit must be at least 1: {limit}"):
            SceneViews(size=32, limit=limit)


def test_the_whole_view_is_the_resized_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    assert np.array_equal(whole_view(image, 64), image[:, 16:80])
    assert np.array_equal(whole_view(image[:, :64], 32), resize_image(image[:, :64], (32, 32)))
    for height, width in [(33, 100), (100, 33), (7, 9), (501, 500)]:
        assert whole_view(np.zeros((height, width, 3), np.uint8), 64).shape == (64, 64, 3)


def test_a_random_view_stays_inside_and_covers_20_to_100_percent_of_the_largest_square() -> None:
    # Position in the image written into the pixels, so that the view tells where it was taken.
    image = np.zeros((200, 240, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(200)[:, None], np.arange(240)[None]
    areas, lefts = [], []
    for index in range(200):
        view = random_view(image, 64, 0, index).astype(int)
        assert view.shape == (64, 64, 3)
        areas.append((np.ptp(view[..., 0]) * np.ptp(view[..., 1])) / 200**2)
        lefts.append(view[..., 1].min())
    assert 0.17 < min(areas) < 0.3 and 0.8 < max(areas) <= 1
    assert min(lefts) < 10 and max(lefts) > 100


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 3)])
def test_the_smallest_pictures_have_views_too(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    assert (whole_view(image, 16) == 9).all() and (random_view(image, 16, 0, 0) == 9).all()
