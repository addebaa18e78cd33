"""Random numbers that are a function of a seed and an index, with the same bits on every platform.

numpy's generators are not used because their distributions may change between versions. This module uses only
integer arithmetic and single IEEE operations, whose last bits do not depend on the processor.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # splitmix64's finaliser (Steele, Lea & Flood 2014); uint64 arrays wrap silently, as intended.
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@lru_cache(maxsize=16)
def _counters(count: int) -> NDArray[np.uint64]:
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)


class Stream:
    """Random numbers that are a function of (seed, index) alone.

    A stream hands out successive blocks; two streams with different keys are independent for our purposes.
    """

    def __init__(self, seed: int, index: int) -> None:
        key = np.array([(seed * _GOLDEN + 0x632BE59BD9B4E019) & _MASK, index & _MASK], dtype=np.uint64)
        mixed = _mixed(key)
        self._state = int(mixed[0]) ^ ((int(mixed[1]) * _GOLDEN) & _MASK)
        self._scalars: list[float] = []

    def words(self, count: int) -> NDArray[np.uint64]:
        """`count` 64-bit words, shape (count,)."""
        words = _mixed(_counters(count) + np.uint64(self._state))
        self._state = (self._state + _GOLDEN * count) & _MASK
        return words

    def uniform(self, *shape: int) -> Floats:
        """Uniform float32 in [0, 1) with 24 random bits each."""
        count = int(np.prod(shape))
        return ((self.words(count) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)

    def octets(self, count: int) -> NDArray[np.uint8]:
        """`count` random bytes, shape (count,)."""
        return self.words((count + 7) // 8).astype("<u8").view(np.uint8)[:count]

    def one(self) -> float:
        """One uniform number in [0, 1)."""
        if not self._scalars:
            self._scalars = self.uniform(64).tolist()
        return self._scalars.pop()

    def between(self, low: float, high: float) -> float:
        """One uniform number in [low, high)."""
        return low + (high - low) * self.one()

    def below(self, count: int) -> int:
        """One integer from 0 to count - 1."""
        return int(self.one() * count)
