"""The size at which pictures are looked at: detectron2's rule for the shortest edge."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from opentrans_cli.steps.segmentors.picture_size import PUBLISHED, Sides, at_size


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((480, 640), (800, 1067)),
        ((427, 640), (800, 1199)),
        ((640, 427), (1199, 800)),
        ((375, 500), (800, 1067)),
        ((300, 1000), (400, 1333)),
        ((1024, 2048), (667, 1333)),
        ((800, 1333), (800, 1333)),
    ],
)
def test_pictures_get_the_size_they_have_in_the_published_tests(
    given: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert PUBLISHED.shape(*given) == wanted


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_the_short_side_is_met_unless_the_long_one_would_get_too_long(height: int, width: int) -> None:
    short, long = sorted(PUBLISHED.shape(height, width))
    assert (short == PUBLISHED.short and long <= PUBLISHED.long) or (long == PUBLISHED.long and short < PUBLISHED.short)


def test_a_picture_of_that_size_is_left_as_it_is() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    assert Sides(40, 100).resized(image) is image
    assert Sides(80, 100).resized(image).shape == (67, 100, 3)


def test_answers_come_back_at_the_size_of_the_picture() -> None:
    maps = torch.arange(6.0).view(1, 2, 3)
    assert at_size(maps, 2, 3) is maps
    assert at_size(maps, 50, 77).shape == (1, 50, 77)
    assert torch.allclose(at_size(torch.full((2, 3, 4), 7.0), 9, 5), torch.tensor(7.0))
