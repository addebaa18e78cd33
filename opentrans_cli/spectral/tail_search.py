"""The tail with the smallest KS distance, found without computing the distance of every tail.

D of a tail is a maximum over its eigenvalues, so the maximum over a few of them is a lower bound. Bounds on more
and more eigenvalues leave fewer and fewer tails that can still win; only these are computed in full. The result is
that of the plain scan. Letters in names: T tails, S eigenvalues looked at.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from opentrans_cli.spectral.power_law import TIE, fit_all_tails, gaps

# Below this many (tail, eigenvalue) pairs the plain scan is as fast.
_PLAIN = 2**13

# How many eigenvalues of each tail the bounds look at, one pass after the other.
_SAMPLES = (12, 64, 384)

# Bounds the work matrix of the last pass to 1 MiB of float64, and so what is computed in vain.
_CHUNK_ELEMENTS = 2**17


def best_start(eigenvalues: Tensor, candidates: Tensor) -> int:
    """The index in `candidates` whose tail has the smallest KS distance, the first one on ties.

    `eigenvalues` is float64 (N,), ascending, not negative; `candidates` is int64 (T,), T >= 1, with entries
    in [0, N). Equal to `fit_all_tails(eigenvalues, candidates).best_start()`, in O(N + T) memory.
    """
    if len(candidates) * len(eigenvalues) <= _PLAIN:
        return fit_all_tails(eigenvalues, candidates).best_start()
    # A tail that starts at zero has D = 1, which no other tail exceeds.
    open_T = (eigenvalues[candidates] > 0).nonzero().flatten()
    if not len(open_T):
        return int(candidates[0])
    search = _Search(eigenvalues, candidates[open_T])
    return int(candidates[open_T[search.run()]])


class _Search:
    """One search; `alive_T` are the positions in `start_T` of the tails that can still win."""

    def __init__(self, eigenvalues: Tensor, start_T: Tensor) -> None:
        self.log_N = eigenvalues.log()
        self.start_T = start_T
        self.alpha_T = fit_all_tails(eigenvalues, start_T, distances=False).alpha
        self.distance_T = torch.full_like(self.alpha_T, math.inf)
        self.bound_T = torch.zeros_like(self.alpha_T)
        self.best = math.inf

    def run(self) -> int:
        """Position in `start_T` of the best tail."""
        alive_T = torch.arange(len(self.start_T))
        for samples in _SAMPLES:
            if samples < len(self.log_N):
                self._raise_bounds(alive_T, samples)
                self._compute(alive_T[self.bound_T[alive_T].topk(min(2, len(alive_T)), largest=False).indices])
                alive_T = self._alive(alive_T)
        alive_T = alive_T[self.bound_T[alive_T].argsort()]
        rows = max(1, _CHUNK_ELEMENTS // len(self.log_N))
        while len(alive_T):
            self._compute(alive_T[:rows])
            alive_T = self._alive(alive_T[rows:])
        return int((self.distance_T <= self.best + TIE).nonzero()[0])

    def _alive(self, tails_T: Tensor) -> Tensor:
        """Those of `tails_T` whose bound does not exclude that they are the best one or tied with it."""
        return tails_T[self.bound_T[tails_T] <= self.best + 2 * TIE]

    def _raise_bounds(self, tails_T: Tensor, samples: int) -> None:
        size_T = len(self.log_N) - self.start_T[tails_T]
        share_S = (torch.arange(samples, dtype=torch.float64) + 1) / samples
        # The last eigenvalue is among them: the gap there is often the largest.
        offset_TS = (size_T[:, None] * share_S).ceil().to(torch.int64) - 1
        self.bound_T[tails_T] = self._gaps(tails_T, offset_TS).amax(dim=1)

    def _compute(self, tails_T: Tensor) -> None:
        if not len(tails_T):
            return
        first = int(self.start_T[tails_T].min())
        offset_TN = torch.arange(first, len(self.log_N)) - self.start_T[tails_T][:, None]
        gap_TN = gaps(self.log_N[first:], self.log_N, self.start_T[tails_T], self.alpha_T[tails_T], offset_TN)
        distance_T = gap_TN.masked_fill(offset_TN < 0, 0.0).amax(dim=1)
        self.distance_T[tails_T] = distance_T
        self.best = min(self.best, float(distance_T.min()))

    def _gaps(self, tails_T: Tensor, offset_TS: Tensor) -> Tensor:
        start_T = self.start_T[tails_T]
        return gaps(self.log_N[start_T[:, None] + offset_TS], self.log_N, start_T, self.alpha_T[tails_T], offset_TS)
