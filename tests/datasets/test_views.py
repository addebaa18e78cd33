"""Views: the same bits in memory and streamed, with any number of workers; bad pictures are told or skipped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.datasets.picture_source import Picture, list_pictures
from opentrans_cli.datasets.view_sets import PhotoViews, SceneViews
from opentrans_cli.datasets.views import Views
from opentrans_cli.errors import DataError

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
