"""N of every M consecutive inputs kept, the form that sparse tensor cores multiply (2:4; Mishra et al., 2104.08378)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import OptionError
from opentrans_cli.sparsity.patterns.base import SingleWeights, distinct_steps
from opentrans_cli.sparsity.schedule import check_sparsity
from opentrans_cli.sparsity.selection import Mask, Scores, check_numbers, previous_mask

LARGEST_M = 16

# A schedule's last sparsity may miss 1 - N/M by rounding errors of floating point.
_ROUNDING = 1e-9


class NOfM(SingleWeights):
    """`kept` of every `group` consecutive inputs kept, exactly, for every output channel and kernel position.

    Inputs are dimension 1 of a weight (O, I, kh, kw) or (O, I). In the rounds before its final
    sparsity 1 - N/M, a group keeps M - floor(M * sparsity), so that the masks are nested: for 2:4, 3 of 4 from 0.25 on.
    The lowest scores of a group are removed first, as a stable sort orders them, and among equal ones the later input.
    """

    def __init__(self, kept: int, group: int) -> None:
        self.name = f"{kept}:{group}"
        self.sparsity: float | None = 1 - kept / group
        self._kept, self._group = kept, group

    def problem(self, layer: str, shape: tuple[int, ...]) -> str | None:
        """Why a layer does not fit: its inputs cannot be split into groups (depthwise convolutions have one)."""
        if shape[1] % self._group:
            return f"inputs not divisible by {self._group}: {shape[1]}"
        return None

    def rounds(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """One sparsity for every number of weights that a group keeps: 3:4 and 2:4 for 2:4, in any number of rounds."""
        return distinct_steps(1 - self._kept_at(sparsity) / self._group for sparsity in sparsities)

    def masks(self, scores: Scores, sparsity: float, *, inside: Mapping[str, Mask] | None = None) -> dict[str, Mask]:
        """Masks with the same number kept in every group; see `Pattern.masks`.

        Raises OptionError as well for a sparsity above 1 - N/M, and for a layer that does not fit.
        """
        kept = self._kept_at(sparsity)
        masks = {}
        for layer in scores:
            score = scores[layer]
            if (problem := self.problem(layer, score.shape)) is not None:
                raise OptionError(f"layer does not fit {self.name}: {layer}, {problem}; leave it out with --exclude")
            check_numbers(layer, score)
            masks[layer] = previous_mask(layer, score.shape, inside)
            if not self._cut(score, masks[layer], kept):
                raise OptionError(
                    f"sparsity below what is already pruned: {sparsity}, a group in {layer} keeps fewer than {kept} "
                    f"of {self._group}; start from a denser source"
                )
        return masks

    def _kept_at(self, sparsity: float) -> int:
        """How many weights of a group are kept at a sparsity."""
        check_sparsity(sparsity)
        final = 1 - self._kept / self._group
        if sparsity > final + _ROUNDING:
            raise OptionError(f"sparsity above that of {self.name}: {sparsity}; ask for {final:g}")
        if sparsity >= final - _ROUNDING:
            return self._kept
        return max(self._kept, self._group - math.floor(self._group * sparsity + _ROUNDING))

    def _cut(self, score: NDArray[Any], mask: Mask, kept: int) -> bool:
        """Reduce every group of `mask` to `kept` in place; return False, unchanged, if a group has fewer already."""
        split = (score.shape[0], score.shape[1] // self._group, self._group, math.prod(score.shape[2:]))
        groups: Any = np.moveaxis(mask.reshape(split), 2, 0)  # views of the mask
        left = groups.sum(0, dtype=np.int8)
        if (left < kept).any():
            return False
        ranks = _ranks(np.ascontiguousarray(np.moveaxis(score.reshape(split), 2, 0)), groups)
        left -= kept
        for members, rank in zip(groups, ranks, strict=True):
            members &= rank >= left
        return True


def n_m(text: str, model_cfg: Mapping[str, Any]) -> NOfM:
    """The pattern a text such as "2:4" names, the same for every tower; 1 <= N < M <= 16, else OptionError."""
    numbers = re.fullmatch(r"([0-9]{1,4}):([0-9]{1,4})", text)
    if numbers is None:
        raise OptionError(f"pattern without its numbers: '{text}'; write N:M such as 2:4")
    kept, group = int(numbers[1]), int(numbers[2])
    if not 1 <= kept < group <= LARGEST_M:
        raise OptionError(f"pattern out of range: '{text}'; choose N:M with 1 <= N < M <= {LARGEST_M}, such as 2:4")
    return NOfM(kept, group)


def _ranks(scores: NDArray[Any], masks: Sequence[Mask]) -> list[NDArray[np.int8]]:
    """For each weight, how many kept weights of its group are removed before it; one array per position in a group.

    It counts pairs, because sorting millions of rows of four takes several times as long.
    """
    ranks = [np.zeros(mask.shape, np.int8) for mask in masks]
    for later in range(len(scores)):
        for earlier in range(later):
            first = scores[later] <= scores[earlier]
            ranks[earlier] += first & masks[later]
            ranks[later] += ~first & masks[earlier]
    return ranks
