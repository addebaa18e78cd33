"""The random control of a pruning run: the same number of weights kept in every layer and round, but chosen at random.

The value of a mask is its gain over its control.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.errors import MaskError
from opentrans_cli.sparsity.selection import Mask


def random_scores(shapes: Mapping[str, Sequence[int]], seed: int) -> dict[str, NDArray[np.float64]]:
    """Uniform scores in [0, 1), in the given shape by layer.

    A layer's scores depend on `seed` and its name alone: not on the other layers, the platform or the library version.
    """
    return {layer: _uniform(f"{seed}:{layer}", tuple(shape)) for layer, shape in shapes.items()}


def _uniform(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Random scores in [0, 1) that depend on a name."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")
    # Raw bits, because numpy promises stable streams for bit generators but not for the distributions on top.
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    return (bits >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53


def random_control_masks(
    counts_per_round: Sequence[Mapping[str, int]], shapes: Mapping[str, Sequence[int]], seed: int
) -> list[dict[str, Mask]]:
    """One dict of masks (True = kept) per round, each inside that of the round before.

    `counts_per_round` are the kept weights by layer; `shapes` names the layers and their order. Each layer is shuffled
    once, by `seed` and its name alone, so neither the order of layers nor other layers matter. One round takes one byte
    per weight. Raises MaskError naming a layer without a count, with a count outside [0, its size], or growing from
    round to round.
    """
    for layer, shape in shapes.items():
        _check_counts(layer, math.prod(shape), [counts.get(layer) for counts in counts_per_round])
    rounds: list[dict[str, Mask]] = [{} for _ in counts_per_round]
    for layer, shape in shapes.items():
        # A different name, since otherwise the control of random pruning with the same seed would be its mirror image.
        name = f"twin of {layer}"
        order = random_scores({name: shape}, seed)[name].reshape(-1).argsort(kind="stable")
        for masks, counts in zip(rounds, counts_per_round, strict=True):
            mask = np.zeros(len(order), np.bool_)
            mask[order[: counts[layer]]] = True
            masks[layer] = mask.reshape(tuple(shape))
    return rounds


def _check_counts(layer: str, size: int, counts: Sequence[int | None]) -> None:
    """Kept counts of one layer must exist and may only fall from `size` to 0."""
    previous = size
    for number, count in enumerate(counts, start=1):
        if count is None:
            raise MaskError(f"no kept count: {layer} in round {number}; give one for every layer")
        if not 0 <= count <= previous:
            raise MaskError(
                f"kept count out of range: {layer} in round {number}, {count} of {previous}; "
                "a round can only keep what the round before kept"
            )
        previous = count
