"""Shrinking is OpenCV's: compared with a literal computation, and with figures of OpenCV 5.0.0 itself."""

from __future__ import annotations

import numpy as np
import pytest

from opentrans_cli.datasets.benchmarks.shrink import shrink_label_map, shrink_photo, shrunk_shape


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((512, 3000), (512, 3000)),
        ((300, 400), (300, 400)),
        ((1536, 2048), (512, 683)),
        ((2048, 1536), (683, 512)),
        ((513, 513), (512, 512)),
        ((1025, 1024), (512, 512)),  # 512.5 is rounded to the even number
        ((1027, 1024), (514, 512)),
    ],
)
def test_the_shorter_side_becomes_512_and_smaller_pictures_stay(shape: tuple[int, int], small: tuple[int, int]) -> None:
    assert shrunk_shape(shape, 512) == small


@pytest.mark.parametrize(
    ("old", "new", "opencv"),
    [(744, 512, 64755312), (1888, 768, 370318208), (3164, 512, 275599184), (1000, 512, 87061744), (683, 512, 59434126)],
)
def test_label_maps_take_the_pixels_that_opencv_takes(old: int, new: int, opencv: int) -> None:
    """opencv: sum of position times source index of cv2.resize(..., INTER_NEAREST) of a row 0, 1, ...; in the first
    three rows, exact arithmetic would take other pixels.
    """
    row = shrink_label_map(np.arange(old)[None], (1, new))[0]
    assert int((row * np.arange(new)).sum()) == opencv
    column = shrink_label_map(np.arange(old)[:, None], (new, 1))[:, 0]
    assert (column == row).all()


def test_photos_are_those_of_opencv() -> None:
    image = (np.arange(7 * 9 * 3).reshape(7, 9, 3) * 37 % 256).astype(np.uint8)
    opencv = [[92, 183, 179, 122, 105], [145, 140, 135, 130, 125], [101, 141, 91, 86, 81], [160, 103, 47, 42, 191]]
    assert np.abs(shrink_photo(image, (4, 5))[..., 0].astype(int) - opencv).max() <= 1


def test_photos_are_a_weighted_mean_of_four_pixels() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    small = shrink_photo(image, (9, 14))
    assert small.shape == (9, 14, 3)
    for row in range(9):
        for column in range(14):
            y, x = max(0.0, (row + 0.5) * 23 / 9 - 0.5), max(0.0, (column + 0.5) * 31 / 14 - 0.5)
            mean = np.zeros(3)
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (y % 1 if dy else 1 - y % 1) * (x % 1 if dx else 1 - x % 1)
                mean += weight * image[min(int(y) + dy, 22), min(int(x) + dx, 30)]
            assert np.abs(small[row, column] - mean).max() <= 0.51
