"""Views: the same bits in memory and streamed, with any number of workers; bad pictures are told or skipped."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from opentrans_cli.datasets.images import read_image, resize_image
from opentrans_cli.datasets.picture_source import Picture, list_pictures
from opentrans_cli.datasets.shapes import ShapesDataset
from opentrans_cli.datasets.views import DETAIL, Made, PhotoViews, SceneViews, Views, ViewSet, random_view, whole_view
from opentrans_cli.errors import DataError, OptionError

COUNT = 24  # views of the photos
SIZE = 16


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve JPEG files of random pixels."""
    rng = np.random.default_rng(0)
    for number in range(12):
        pixels = rng.integers(0, 256, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.jpg")
    return tmp_path


def opened(
    photos: Path, *, workers: int = 0, streamed: bool = False, skip_bad: bool = False, limit: int = 100
) -> Views:
    photo_views = PhotoViews(list_pictures(photos), size=SIZE, limit=limit, seed=3)
    return Views(photo_views, workers=workers, skip_bad=skip_bad, in_memory=0 if streamed else 1 << 30)


def scanned(views: Views, batch_size: int = 64) -> np.ndarray:
    return np.concatenate(list(views.scan(batch_size)))


def cut_short(*paths: Path) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_views_are_the_same_bits_streamed_or_not_with_any_number_of_workers(
    photos: Path, workers: int, streamed: bool
) -> None:
    with opened(photos) as reference:
        wanted = scanned(reference)
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, COUNT, size) for size in (5, 1, 20, 0, 9)]
    with opened(photos, workers=workers, streamed=streamed) as views:
        assert views.streamed == streamed
        assert np.array_equal(scanned(views, 8), wanted)
        assert len(views) == COUNT and views.fingerprint == reference.fingerprint and views.bad == ()
        found = list(views.stream(batches))
        assert len(found) == 5
        for rows, pixels in zip(batches, found, strict=True):
            assert pixels.dtype == np.uint8 and np.array_equal(pixels, wanted[rows])
            assert np.array_equal(views.fetch(rows), pixels)


def test_a_set_is_kept_in_memory_up_to_the_given_bytes(photos: Path) -> None:
    photo_views = PhotoViews(list_pictures(photos), size=SIZE, limit=100, seed=0)
    assert not Views(photo_views, in_memory=COUNT * SIZE**2 * 3).streamed
    assert Views(photo_views, in_memory=COUNT * SIZE**2 * 3 - 1).streamed


def test_kept_views_outlive_their_files_and_streamed_ones_do_not(photos: Path) -> None:
    kept, streamed = opened(photos), opened(photos, streamed=True)
    wanted = scanned(kept)
    scanned(streamed)
    (photos / "03.jpg").unlink()
    assert np.array_equal(kept.fetch(np.arange(COUNT)), wanted)
    assert np.array_equal(streamed.fetch(np.arange(6)), wanted[:6])
    with pytest.raises(DataError, match=r"image not found: .*03\.jpg"):
        streamed.fetch(np.array([0, 7]))


def test_a_picture_that_changes_after_the_scan_is_told_by_name(photos: Path) -> None:
    views = opened(photos, streamed=True)
    scanned(views)
    (photos / "03.jpg").write_bytes((photos / "04.jpg").read_bytes())
    with pytest.raises(DataError, match=r"image changed while it was in use: .*03\.jpg; start again"):
        views.fetch(np.array([0, 7]))


@pytest.mark.parametrize("streamed", [False, True])
def test_the_fingerprint_is_that_of_pixels_and_shape(photos: Path, streamed: bool) -> None:
    prints = set()
    for limit in (COUNT, COUNT - 1):
        with opened(photos, limit=limit, streamed=streamed) as views:
            pixels = scanned(views)
            assert len(pixels) == limit
            content = pixels.tobytes() + str(pixels.shape).encode()
            assert views.fingerprint == f"sha256:{hashlib.sha256(content).hexdigest()}"
            prints.add(views.fingerprint)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(photos / "05.jpg")
    with opened(photos, streamed=streamed) as views:
        scanned(views)
        prints.add(views.fingerprint)
    assert len(prints) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_bad_picture_in_order_is_an_error(photos: Path, workers: int) -> None:
    cut_short(photos / "09.jpg", photos / "04.jpg")
    told = r"image cannot be read: .*04\.jpg; it is damaged .*, replace it or skip it and others with --skip-bad$"
    with opened(photos, workers=workers) as views, pytest.raises(DataError, match=told):
        scanned(views)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_pictures_are_named_and_the_others_keep_their_views(photos: Path, workers: int, streamed: bool) -> None:
    with opened(photos) as whole:
        good = np.delete(scanned(whole), [8, 9, 18, 19], axis=0)
    cut_short(photos / "09.jpg", photos / "04.jpg")
    with opened(photos, workers=workers, streamed=streamed, skip_bad=True) as views:
        assert np.array_equal(scanned(views, 8), good)
        assert views.bad == tuple(f"image cannot be read: {photos}/{name}.jpg" for name in ("04", "09"))
        assert len(views) == COUNT - 4 and views.planned == COUNT
        rows = np.array([19, 8, 0, 9])
        assert np.array_equal(views.fetch(rows), good[rows])


def test_a_set_without_any_good_picture_is_an_error(photos: Path) -> None:
    cut_short(*photos.glob("*.jpg"))
    told = r"no image can be read: 12 are bad, first: image cannot be read: .*00\.jpg; give others"
    with pytest.raises(DataError, match=told):
        scanned(opened(photos, skip_bad=True))


def test_rows_past_the_end_and_views_before_the_scan_are_mistakes_of_the_program(photos: Path) -> None:
    for streamed in (False, True):
        views = opened(photos, streamed=streamed)
        with pytest.raises(RuntimeError, match="only after the scan"):
            views.fetch(np.array([0]))
        next(views.scan(8))
        with pytest.raises(RuntimeError, match="only after the scan"):
            len(views)
        scanned(views)
        with pytest.raises(IndexError):
            views.fetch(np.array([COUNT]))


def test_without_workers_a_stream_reads_no_batch_before_it_is_asked_for(photos: Path) -> None:
    asked = []

    def batches() -> Iterator[np.ndarray]:
        for number in range(3):
            asked.append(number)
            yield np.array([number])

    for streamed in (False, True):
        asked.clear()
        views = opened(photos, streamed=streamed)
        scanned(views)
        stream = views.stream(batches())
        for number in range(3):
            next(stream)
            assert asked == list(range(number + 1))


def test_scenes_are_views_too() -> None:
    with Views(SceneViews(size=32, limit=5), in_memory=0) as streamed, Views(SceneViews(size=32, limit=5)) as kept:
        assert np.array_equal(scanned(streamed), scanned(kept))
        assert streamed.fingerprint == kept.fingerprint
        assert np.array_equal(streamed.fetch(np.array([4, 1])), kept.fetch(np.array([4, 1])))


def test_listing_the_same_picture_twice_makes_two_whole_views_and_two_crops(photos: Path) -> None:
    twice = [Picture(photos / "00.jpg")] * 2
    with Views(PhotoViews(twice, size=SIZE, limit=4, seed=0)) as views:
        first, crop, second, other = scanned(views)
    assert np.array_equal(first, second) and not np.array_equal(crop, other)


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


def set_of(pictures: tuple[Picture, ...], *, limit: int = 100, seed: int = 0, size: int = 32) -> PhotoViews:
    return PhotoViews(pictures, size=size, limit=limit, seed=seed)


def test_every_picture_gives_its_whole_view_and_one_crop(pictures: tuple[Picture, ...]) -> None:
    photo_views = set_of(pictures, seed=5)
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
    photo_views = set_of(pictures, seed=seed, size=8)
    assert np.array_equal(made(photo_views, rows).pixels, made(photo_views, list(range(10))).pixels[rows])


@given(limit=st.integers(1, 12), seed=st.integers(0, 2**63))
def test_the_limit_counts_views_and_the_seed_chooses_pictures_in_their_order(
    pictures: tuple[Picture, ...], limit: int, seed: int
) -> None:
    photo_views, everything = set_of(pictures, limit=limit, seed=seed), set_of(pictures, seed=seed)
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
    assert {set_of(pictures, limit=2, seed=seed).name(0) for seed in range(30)} == {p.name for p in pictures}
    image = read_image(pictures[0].path)
    crops = {random_view(image, 16, seed, index).tobytes() for seed in range(5) for index in range(5)}
    assert len(crops) == 25


def test_bad_pictures_are_reported_by_position_and_leave_the_others_alone(pictures: tuple[Picture, ...]) -> None:
    gone = Picture(Path("gone.png"))
    found = made(set_of((pictures[0], gone, pictures[2])), [5, 3, 2, 0])
    assert sorted(found.bad) == [1, 2]
    assert set(found.bad.values()) == {"image not found: gone.png; check the path"}
    assert not found.pixels[1:3].any()
    assert np.array_equal(found.pixels[[3, 0]], made(set_of(pictures), [0, 5]).pixels)


def test_a_large_jpeg_is_decoded_at_a_fraction_that_still_has_detail_times_the_size(tmp_path: Path) -> None:
    smooth = (np.add.outer(np.arange(300), np.arange(400)) // 3).astype(np.uint8)
    Image.fromarray(np.dstack([smooth] * 3)).save(tmp_path / "x.jpg", quality=95)
    for size, fraction in [(32, 2), (40, 1), (16, 4)]:
        image = read_image(tmp_path / "x.jpg", shrink_to=DETAIL * size)
        assert image.shape == (300 // fraction, 400 // fraction, 3)
        found = made(set_of(list_pictures(tmp_path), size=size), [0, 1]).pixels
        assert np.array_equal(found, [whole_view(image, size), random_view(image, size, 0, 0)])


def test_the_scenes_are_the_training_scenes_of_the_embedded_data_set() -> None:
    scene_views, scenes = SceneViews(size=64, limit=3), ShapesDataset("train", size=64, count=3)
    assert len(scene_views) == 3 and scene_views.name(2) == "scene 2"
    assert np.array_equal(made(scene_views, [2, 0]).pixels, [scenes[2].image, scenes[0].image])


def test_a_limit_below_one_is_refused(pictures: tuple[Picture, ...]) -> None:
    for limit in (0, -3):
        with pytest.raises(OptionError, match=f"--image-limit must be at least 1: {limit}"):
            set_of(pictures, limit=limit)
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
