"""The interface of a pattern: which weights are removed together, and how scores of weights become masks of that form.

Masks and scores are arrays by layer, in the shape of the layer's weight; in a mask True = kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from opentrans_cli.sparsity.patterns import PATTERNS

if TYPE_CHECKING:
    from opentrans_cli.sparsity.selection import Mask, Scores

_N_OF_M = re.compile(r"\d+:\d+")


class Pattern(Protocol):
    """One form of sparsity."""

    name: str  # as the manifest records it: "unstructured", "2:4"
    sparsity: float | None  # the only sparsity the pattern has; None: any

    def problem(self, layer: str, shape: tuple[int, ...]) -> str | None:
        """Why a layer with a weight of this shape does not fit the pattern; None if it fits."""

    def layers(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """The layers the pattern prunes instead of the default `chosen`; most patterns return `chosen` unchanged."""

    def rounds(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """Rising sparsities in the steps that the pattern allows, each once; the last one is always included."""

    def masks(self, scores: Scores, sparsity: float, *, inside: Mapping[str, Mask] | None = None) -> dict[str, Mask]:
        """Masks of the lowest scores, of `sparsity` = removed / all weights, in [0, 1).

        The pattern defines how close the result comes to this sparsity. `inside` are the masks of the previous round:
        what they removed stays removed and counts. Equal scores are ordered by layer and flat index, so that the masks
        are a function of the scores. Raises OptionError for a sparsity out of range or below that of `inside`,
        MaskError for NaN scores or masks in `inside` that do not match.
        """

    def coupled(self, masks: Mapping[str, Mask]) -> dict[str, Mask]:
        """Masks, by full tensor name, of coupled parameters (BatchNorm, biases): the removed weights leave them without
        effect, so they are held at zero too; {} for most patterns.
        """


class SingleWeights:
    """Common base of patterns that fit every layer and remove single weights."""

    sparsity: float | None = None

    def problem(self, layer: str, shape: tuple[int, ...]) -> str | None:
        """Return None: every layer fits."""
        return None

    def layers(self, chosen: tuple[str, ...]) -> tuple[str, ...]:
        """Return the layers unchanged."""
        return chosen

    def rounds(self, sparsities: tuple[float, ...]) -> tuple[float, ...]:
        """Return the sparsities unchanged."""
        return sparsities

    def coupled(self, masks: Mapping[str, Mask]) -> dict[str, Mask]:
        """Return {}: removing single weights leaves no other parameter without effect."""
        return {}


def pattern_for(text: str, model_cfg: Mapping[str, Any]) -> Pattern:
    """The pattern a user named, for the tower of open_clip's configuration: a name of the table, or N:M such as 2:4.

    Raises OptionError for an unknown name, or a tower of a kind the pattern does not know.
    """
    pattern: Pattern = PATTERNS.load("n_m" if _N_OF_M.fullmatch(text) else text)(text, model_cfg)
    return pattern


def distinct_steps(sparsities: Iterable[float]) -> tuple[float, ...]:
    """Rising sparsities, each once and without a first of 0, which would remove nothing; at least one is left."""
    steps = tuple(dict.fromkeys(sparsities))
    return steps[1:] if len(steps) > 1 and steps[0] == 0 else steps
