"""COCO's run lengths: what pycocotools writes is read back, and what does not fill the picture is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from opentrans_cli.datasets.run_lengths import decode_run_lengths


@settings(max_examples=40)
@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_what_pycocotools_encodes_is_read_back(region: np.ndarray) -> None:
    encoded = coco.encode(np.asfortranarray(region.astype(np.uint8)))
    assert (decode_run_lengths(encoded) == region).all()
    text = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    assert (decode_run_lengths(text) == region).all()
    changes = np.flatnonzero(np.diff(region.ravel(order="F"), prepend=False)).tolist()
    lengths = np.diff([0, *changes, region.size]).tolist()
    assert (decode_run_lengths({"size": list(region.shape), "counts": lengths}) == region).all()


def test_a_large_region_is_read_back() -> None:
    rows, columns = np.ogrid[:300, :400]
    region = (rows - 150) ** 2 + (columns - 200) ** 2 < 140**2
    assert (decode_run_lengths(coco.encode(np.asfortranarray(region.astype(np.uint8)))) == region).all()


@given(st.binary(max_size=30), st.integers(1, 9), st.integers(1, 9))
def test_any_text_is_a_region_of_the_size_or_an_error(text: bytes, height: int, width: int) -> None:
    try:
        assert decode_run_lengths({"size": [height, width], "counts": text}).shape == (height, width)
    except ValueError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"size": [200, 300], "counts": [5, 10, 60000]}, "do not sum up to 200 x 300 pixels"),
        ({"size": [2, 3], "counts": [2.5, 3.5]}, "do not sum up"),
        ({"size": [2], "counts": [6]}, r"no size of a picture: \[2\]"),
        ({"size": [1 << 30, 1 << 30], "counts": [1 << 60]}, "no size of a picture"),
        ({"counts": [6]}, "no 'size' and 'counts'"),
        ([[1.0, 2.0, 3.0, 4.0]], "no 'size' and 'counts'"),
    ],
)
def test_what_is_no_region_is_refused(region: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_run_lengths(region)
