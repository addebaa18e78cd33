"""Random crops: image and label map stay aligned, and (seed, number) say everything."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
import pytest

from opentrans_cli.datasets.base import Sample
from opentrans_cli.datasets.crops import PADDING, training_crop

IGNORE = 255


def coded(height: int, width: int, *, cell: int) -> Sample:
    """Every cell has its own id, and its colour says the id."""
    rows, columns = np.arange(height)[:, None] // cell, np.arange(width)[None] // cell
    label_map = (rows * 8 + columns) % 64
    image = np.stack([label_map // 8 * 32, label_map % 8 * 32, np.zeros_like(label_map)], axis=-1)
    return Sample(image=image.astype(np.uint8), label_map=label_map.astype(np.int64), name="coded")


def decoded(image: np.ndarray) -> np.ndarray:
    cells = (image[..., :2].astype(int) + 16) // 32
    ids = cells[..., 0] * 8 + cells[..., 1]
    return np.where((image == PADDING).all(-1), IGNORE, ids)


def test_without_scaling_every_pixel_keeps_its_label() -> None:
    for shape, number in product([(60, 90), (20, 90), (20, 24), (48, 48)], range(20)):
        sample = coded(*shape, cell=5)
        image, labels = training_crop(
            sample, size=48, seed=3, number=number, ignore_index=IGNORE, scale=(1, 1), flip=True
        )
        assert image.shape == (48, 48, 3)
        assert labels.shape == (48, 48)
        assert (image.dtype, labels.dtype) == (np.uint8, np.int64)
        assert np.array_equal(decoded(image), labels)
        assert (labels != IGNORE).sum() == min(48, shape[0]) * min(48, shape[1])


def test_scaled_crops_stay_aligned_up_to_blurred_edges() -> None:
    sample = coded(80, 80, cell=20)
    for number in range(20):
        image, labels = training_crop(sample, size=64, seed=0, number=number, ignore_index=IGNORE)
        assert (decoded(image) == labels).mean() > 0.75  # chance is 1 / 16
        assert ((image == PADDING).all(-1) == (labels == IGNORE)).mean() > 0.99


def test_scales_fill_the_range_and_both_directions_occur() -> None:
    sample = coded(40, 40, cell=40)
    sides = []
    for number in range(200):
        _, labels = training_crop(sample, size=100, seed=0, number=number, ignore_index=IGNORE, scale=(0.5, 2.0))
        sides.append(int(np.sqrt((labels != IGNORE).sum())))
    assert 20 <= min(sides) < 25
    assert 75 < max(sides) <= 80
    left = Sample(image=np.zeros((8, 8, 3), np.uint8), label_map=np.eye(8, dtype=np.int64), name="x")
    flips = [
        int(training_crop(left, size=8, seed=0, number=number, ignore_index=IGNORE, scale=(1, 1))[1][0, 0])
        for number in range(200)
    ]
    assert 70 < sum(flips) < 130
    steady = [
        int(training_crop(left, size=8, seed=0, number=d, ignore_index=IGNORE, scale=(1, 1), flip=False)[1][0, 0])
        for d in range(20)
    ]
    assert steady == [1] * 20


@pytest.mark.parametrize("shape", [(40, 80), (400, 300), (96, 96)])
def test_a_factor_of_the_crop_fits_the_image_into_it_whatever_its_size(shape: tuple[int, int]) -> None:
    sample = Sample(np.full((*shape, 3), 9, np.uint8), np.ones(shape, np.int64), "plain")
    for factor, number in ((1.0, 0), (0.5, 1), (0.1, 2)):
        image, labels = training_crop(
            sample, size=64, seed=0, number=number, ignore_index=IGNORE, scale=(factor, factor), scale_of="crop"
        )
        rows, columns = np.nonzero(labels == 1)
        sides = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
        wanted = tuple(round(side * 64 * factor / max(shape)) for side in shape)
        assert sides == wanted and (image[labels == 1] == 9).all() and (image[labels != 1] == PADDING).all()
    _, labels = training_crop(sample, size=64, seed=0, number=3, ignore_index=IGNORE, scale=(2.0, 2.0), scale_of="crop")
    assert (labels == 1).sum() == min(64, round(128 * shape[0] / max(shape))) * min(
        64, round(128 * shape[1] / max(shape))
    )


def test_a_crop_is_a_function_of_seed_and_number() -> None:
    sample = coded(60, 90, cell=5)

    def digest(seed: int, number: int) -> str:
        image, labels = training_crop(sample, size=32, seed=seed, number=number, ignore_index=IGNORE)
        return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()

    keys = [(seed, number) for seed in range(3) for number in range(5)]
    first = [digest(*key) for key in keys]
    assert [digest(*key) for key in reversed(keys)][::-1] == first
    assert len(set(first)) == len(keys)


def test_the_sample_itself_is_left_alone() -> None:
    sample = coded(32, 32, cell=4)
    image, labels = training_crop(sample, size=32, seed=0, number=0, ignore_index=IGNORE, scale=(1, 1), flip=False)
    image[:], labels[:] = 1, 1
    assert np.array_equal(decoded(sample.image), sample.label_map)


def test_a_sample_without_label_map_is_a_mistake_of_the_program() -> None:
    sample = Sample(image=np.zeros((8, 8, 3), np.uint8), label_map=None, name="bare")
    with pytest.raises(ValueError, match="'bare' has no label map"):
        training_crop(sample, size=8, seed=0, number=0, ignore_index=IGNORE)
