"""The tail with the smallest KS distance, found without computing the distance of every tail.

D of a tail is a maximum over its eigenvalues, so the maximum over a few of them is a lower bound. Bounds on more
and more eigenvalues leave fewer and fewer tails that can still win; only these are computed in full. The result is
that of the plain scan. Letters in names: T tails, S eigenvalues looked at.
"""

from __future__ import annotations

import math

import numpy as np

from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.power_law import TIE, Floats, Indices, fit_all_tails, gaps, tail_gaps

# Below this many (tail, eigenvalue) pairs the plain scan is as fast.
_PLAIN = 2**13

# How many eigenvalues of each tail the bounds use, pass by pass.
_SAMPLES = (12, 64, 384)

# Limits the work matrix of the last pass to 1 MiB of float64, and so the computations that are not needed.
_CHUNK_ELEMENTS = 2**17


def best_start(eigenvalues: Eigenvalues, candidates: Indices) -> int:
    """The index in `candidates` whose tail has the smallest KS distance, the first one on ties.

    `eigenvalues` is (N,); `candidates` is (T,), T >= 1, with entries in [0, N). Equal to
    `fit_all_tails(eigenvalues, candidates).best_start()`, in O(N + T) memory.
    """
    if len(candidates) * len(eigenvalues) <= _PLAIN:
        return fit_all_tails(eigenvalues, candidates).best_start()
    # A tail that starts at zero has D = 1, which no other tail exceeds.
    open_T = (eigenvalues[candidates] > 0).nonzero()[0]
    if not len(open_T):
        return int(candidates[0])
    search = _Search(eigenvalues, candidates[open_T])
    return int(candidates[open_T[search.run()]])


class _Search:
    """One search; `alive_T` are the positions in `start_T` of the tails that can still win."""

    def __init__(self, eigenvalues: Eigenvalues, start_T: Indices) -> None:
        with np.errstate(divide="ignore"):
            self.log_N = np.log(eigenvalues)
        self.start_T = start_T
        self.alpha_T = fit_all_tails(eigenvalues, start_T, distances=False).alpha
        self.distance_T = np.full_like(self.alpha_T, math.inf)
        self.bound_T = np.zeros_like(self.alpha_T)
        self.best = math.inf

    def run(self) -> int:
        """Position in `start_T` of the best tail."""
        alive_T = np.arange(len(self.start_T))
        for samples in _SAMPLES:
            if samples < len(self.log_N):
                self._raise_bounds(alive_T, samples)
                self._compute(alive_T[np.argsort(self.bound_T[alive_T])[:2]])
                alive_T = self._alive(alive_T)
        alive_T = alive_T[np.argsort(self.bound_T[alive_T])]
        rows = max(1, _CHUNK_ELEMENTS // len(self.log_N))
        while len(alive_T):
            self._compute(alive_T[:rows])
            alive_T = self._alive(alive_T[rows:])
        return int((self.distance_T <= self.best + TIE).argmax())

    def _alive(self, tails_T: Indices) -> Indices:
        """Return those of `tails_T` that may, by their bounds, still be the best one or tied with it."""
        return tails_T[self.bound_T[tails_T] <= self.best + 2 * TIE]

    def _raise_bounds(self, tails_T: Indices, samples: int) -> None:
        size_T = len(self.log_N) - self.start_T[tails_T]
        share_S = (np.arange(samples) + 1) / samples
        # The last eigenvalue is among them: the gap there is often the largest.
        offset_TS = np.ceil(size_T[:, None] * share_S).astype(np.int64) - 1
        self.bound_T[tails_T] = self._gaps(tails_T, offset_TS).max(1)

    def _compute(self, tails_T: Indices) -> None:
        if not len(tails_T):
            return
        self.distance_T[tails_T] = tail_gaps(self.log_N, self.start_T[tails_T], self.alpha_T[tails_T])
        self.best = min(self.best, float(self.distance_T[tails_T].min()))

    def _gaps(self, tails_T: Indices, offset_TS: Indices) -> Floats:
        start_T = self.start_T[tails_T]
        return gaps(self.log_N[start_T[:, None] + offset_TS], self.log_N, start_T, self.alpha_T[tails_T], offset_TS)
