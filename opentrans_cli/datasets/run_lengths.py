"""Regions as COCO stores them: by column, alternating lengths of pixels outside and inside, as numbers or as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_PIXELS = 1 << 30


def decode_run_lengths(region: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The region, bool (H, W), of COCO's {"size": [H, W], "counts": ...}.

    counts: a list of lengths, or COCO's text of them. Raises ValueError if they do not sum up to the size, so that no
    pixel is left open.
    """
    if not isinstance(region, Mapping) or not {"size", "counts"} <= region.keys():
        raise ValueError("no 'size' and 'counts'")
    counts = region["counts"]
    if isinstance(counts, str | bytes):
        counts = _lengths(counts.encode("ascii") if isinstance(counts, str) else counts)
    lengths = np.asarray(counts)
    size = np.asarray(region["size"])
    if size.shape != (2,) or size.dtype.kind not in "iu" or size.min() < 1 or size.prod(dtype=float) > _MOST_PIXELS:
        raise ValueError(f"no size of a picture: {region['size']}")
    height, width = (int(side) for side in size)
    whole = lengths.ndim == 1 and lengths.dtype.kind in "iu" and lengths.size > 0 and lengths.min() >= 0
    if not whole or lengths.sum(dtype=float) != height * width:
        raise ValueError(f"run lengths do not sum up to {height} x {width} pixels")
    return np.repeat(np.arange(lengths.size) % 2 == 1, lengths).reshape((height, width), order="F")


def _lengths(text: bytes) -> NDArray[np.int64]:
    """COCO's text as numbers. Each is written in groups of 5 bits, the lowest first, as a character from "0" on that
    has 32 added if more follow, and is signed; from the fourth on it is the difference to the last but one.
    """
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if groups.size == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        raise ValueError("run lengths are cut off or no text of COCO's")
    ends = np.flatnonzero(groups & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
    if places.max() > 7:
        raise ValueError("a run length is too large")
    numbers = np.add.reduceat((groups & 31) << 5 * places, starts)
    numbers -= np.where(groups[ends] & 16, 1 << 5 * (places[ends] + 1), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
