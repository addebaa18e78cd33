"""Which samples a training step sees: a function of (seed, step), so a resumed run sees the same data."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.datasets.streams import Stream

_SALT = 0x6F72646572  # keeps these numbers apart from those of other users of the same seed


@lru_cache(maxsize=8)
def epoch_order(count: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which epoch `epoch` visits samples 0 .. count-1: a permutation, int64 (count,), read-only.

    It is sorted by our own counter-based numbers: numpy's random streams may change between versions.
    """
    order = np.argsort(Stream(seed ^ _SALT, epoch).words(count), kind="stable").astype(np.int64)
    order.flags.writeable = False
    return order


def batch_indices(step: int, *, count: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """The samples of step `step` (from 0), int64 (batch_size,).

    Steps walk through one permutation of all `count` samples after another; a batch may span two epochs or,
    when `count` is smaller than the batch, several. ValueError if `count` or `batch_size` is below 1, or
    `step` below 0.
    """
    if count < 1 or batch_size < 1 or step < 0:
        raise ValueError(f"no batch {step} of {batch_size} samples from {count}")
    first = step * batch_size
    places = [divmod(position, count) for position in range(first, first + batch_size)]
    return np.array([epoch_order(count, seed=seed, epoch=epoch)[i] for epoch, i in places], dtype=np.int64)
