"""Which layers are frozen in fine-tuning: the heavy-tailed half (OpenTrans, arXiv 2404.07448, Sec. 3.3.2)."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping
from typing import Literal, get_args

from opentrans_cli.errors import OptionError

FreezeMode = Literal["heavy", "light", "random", "none"]

# 0.29 * 100 is 28.999999999999996 in floating point, and 29 layers are meant.
_ROUNDING = 1e-9


def select_frozen(
    alphas: Mapping[str, float], *, mode: FreezeMode, ratio: float = 0.5, seed: int = 0
) -> tuple[str, ...]:
    """Names of the layers to freeze, in the order of `alphas` (layer -> exponent, inf = could not be fitted).

    heavy: the floor(ratio * n) smallest alphas, n counting every layer; at ratio 0.5 and without ties that
    is the paper's "alpha below the median", which trains the median layer. light: as many of the largest
    (the paper's ablation alpha*). random: as many, drawn by `seed`, the same on every platform and for
    every order of layers. none: no layer.
    Equal alphas: earlier layers first. A layer with alpha = inf is never frozen, in any mode, so fewer may
    be returned.
    Raises OptionError for an unknown mode or a ratio outside [0, 1], ValueError if an alpha is NaN.
    """
    if mode not in get_args(FreezeMode):
        raise OptionError(f"unknown freeze mode: '{mode}'; choose one of {', '.join(get_args(FreezeMode))}")
    if not 0 <= ratio <= 1:
        raise OptionError(f"freeze ratio out of range: {ratio}; choose a number from 0 to 1")
    if any(math.isnan(alpha) for alpha in alphas.values()):
        raise ValueError("alpha is NaN; a layer that cannot be fitted has alpha = inf")
    if mode == "none":
        return ()
    fitted = [layer for layer, alpha in alphas.items() if math.isfinite(alpha)]
    if mode == "random":
        fitted.sort(key=lambda layer: hashlib.sha256(f"{seed}:{layer}".encode()).digest())
    else:
        sign = 1 if mode == "heavy" else -1
        fitted.sort(key=lambda layer: sign * alphas[layer])
    chosen = set(fitted[: math.floor(ratio * len(alphas) + _ROUNDING)])
    return tuple(layer for layer in alphas if layer in chosen)


def median_alpha(alphas: Mapping[str, float]) -> float:
    """Median over all layers, the mean of the middle two for an even number; inf counts as the largest value.

    Raises ValueError if there is no layer.
    """
    return float(statistics.median(alphas.values()))
