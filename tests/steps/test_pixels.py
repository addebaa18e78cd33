"""Distillation images: fixed squares, chosen by the seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from opentrans_cli.datasets.images import resize_image
from opentrans_cli.datasets.shapes.dataset import ShapesDataset
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.steps.pixels import distillation_images, pixel_fingerprint, random_view, whole_view
from opentrans_cli.steps.reporter import SILENT


def images(where: object, *, limit: int = 4096, seed: int = 0, size: int = 32) -> torch.Tensor:
    return distillation_images(str(where), size=size, limit=limit, seed=seed, reporter=SILENT)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five photos of different shapes."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(40, 64), (64, 40), (32, 32), (90, 33), (20, 25)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_the_embedded_scenes_are_the_training_scenes() -> None:
    found = images("shapes", limit=3, size=64)
    scenes = ShapesDataset("train", size=64, count=3)
    assert found.shape == (3, 64, 64, 3) and found.dtype == torch.uint8
    assert all(np.array_equal(found[index].numpy(), scenes[index].image) for index in range(3))


def test_every_photo_gives_its_whole_view_and_one_crop(photos: Path) -> None:
    found = images(photos)
    assert found.shape == (10, 32, 32, 3) and found.dtype == torch.uint8
    for number in range(5):
        image = np.asarray(Image.open(photos / f"{number}.png").convert("RGB"))
        assert np.array_equal(found[2 * number].numpy(), whole_view(image, 32))


def test_the_limit_counts_views_and_the_seed_chooses_photos(photos: Path) -> None:
    for limit in (1, 2, 3, 9, 10, 50):
        assert len(images(photos, limit=limit)) == min(limit, 10)
    assert torch.equal(images(photos, limit=4), images(photos, limit=4))
    assert len({pixel_fingerprint(images(photos, limit=4, seed=seed)) for seed in range(4)}) > 1


def test_the_fingerprint_is_that_of_the_pixels(photos: Path) -> None:
    found = images(photos)
    assert pixel_fingerprint(found) == pixel_fingerprint(found.clone())
    changed = found.clone()
    changed[0, 0, 0, 0] ^= 1
    assert pixel_fingerprint(changed) != pixel_fingerprint(found) != pixel_fingerprint(found.reshape(5, 64, 32, 3))


def test_the_whole_view_is_the_resized_middle() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    assert np.array_equal(whole_view(image, 64), image[:, 16:80])
    assert np.array_equal(whole_view(image[:, :64], 32), resize_image(image[:, :64], (32, 32)))
    for height, width in [(33, 100), (100, 33), (7, 9), (501, 500)]:
        assert whole_view(np.zeros((height, width, 3), np.uint8), 64).shape == (64, 64, 3)


def test_a_random_view_stays_inside_and_covers_20_to_100_percent_of_the_largest_square() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    # Position in the image written into the pixels, so that the view tells where it was taken.
    image = np.zeros((200, 240, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(200)[:, None], np.arange(240)[None]
    areas = []
    for _ in range(100):
        view = random_view(image, 64, rng).astype(int)
        assert view.shape == (64, 64, 3)
        areas.append((np.ptp(view[..., 0]) * np.ptp(view[..., 1])) / 200**2)
    assert 0.17 < min(areas) < 0.3 and 0.8 < max(areas) <= 1


def test_no_photos_or_a_limit_below_one_are_told(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="image folder not found"):
        images(tmp_path / "none")
    with pytest.raises(OptionError, match="--image-limit must be at least 1: 0"):
        images(photos, limit=0)
