"""Which layers are frozen in fine-tuning: the heavy-tailed half (OpenTrans, arXiv 2404.07448, Sec. 3.3.2)."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from opentrans_cli.errors import OptionError, unknown

FreezeMode = Literal["heavy", "light", "random", "none"]
Rule = Literal["median", "ratio", "threshold", "top", "list", "none"]

# 0.29 * 100 is 28.999999999999996 in floating point, and 29 layers are meant.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Selection:
    """One way to choose the layers to freeze: a mode, and at most one of `ratio`, `threshold`, `top` and `listed`.

    heavy: small alphas. light: large ones, the paper's ablation alpha*. random: as many as heavy, chosen by `seed`,
    the same on every platform and for every order of layers. none: no layer.

    By default the median decides, as in the official code: heavy freezes alpha < median, light alpha > median, and the
    median layer is trained either way.
    """

    mode: FreezeMode = "heavy"
    ratio: float | None = None  # in [0, 1]: the first floor(ratio * n) layers by alpha, where n counts every layer
    threshold: float | None = None  # above 1: every layer whose alpha is strictly beyond it
    top: int | None = None  # at least 0: this number of layers beyond the median, those that cost the most to train
    listed: tuple[str, ...] | None = None  # these layers, whatever their alphas and the mode
    seed: int = 0

    def check(self) -> None:
        """Raise OptionError for a rule that is unknown, out of range, or contradicts another one."""
        if self.mode not in get_args(FreezeMode):
            raise OptionError(unknown("freeze mode", self.mode, get_args(FreezeMode)))
        given = [name for name in ("ratio", "threshold", "top") if getattr(self, name) is not None]
        given += ["list"] * (self.listed is not None)
        if len(given) > 1:
            raise OptionError(f"more than one rule says which layers to freeze: {' and '.join(given)}; give one")
        if self.ratio is not None and not 0 <= self.ratio <= 1:
            raise OptionError(f"freeze ratio out of range: {self.ratio}; choose a number from 0 to 1")
        if self.threshold is not None and not 1 < self.threshold < math.inf:
            raise OptionError(f"alpha threshold out of range: {self.threshold}; choose a number above 1, such as 2")
        if self.top is not None and self.top < 0:
            raise OptionError(f"number of layers out of range: {self.top}; choose 0 or more")
        if self.mode in ("random", "none") and given and given[0] in ("threshold", "top"):
            raise OptionError(f"a {given[0]} needs alphas to compare: freeze mode '{self.mode}'; use heavy or light")

    @property
    def rule(self) -> Rule:
        """What decides how many layers are frozen."""
        if self.listed is not None:
            return "list"
        if self.mode == "none":
            return "none"
        if self.ratio is not None:
            return "ratio"
        if self.threshold is not None:
            return "threshold"
        return "median" if self.top is None else "top"

    def choose(self, alphas: Mapping[str, float], costs: Mapping[str, int] | None = None) -> tuple[str, ...]:
        """Names of the layers to freeze, in the order of `alphas` (layer -> exponent, inf = it has no meaning).

        A layer with alpha = inf counts in the median as the largest and is frozen by no rule but a list, so fewer than
        asked for may be returned. Equal alphas or costs: earlier layers first.
        costs: for `top`, the MACs that freezing a layer saves; a layer not in it saves nothing.
        Raises OptionError as `check` does and if `top` has no costs, ValueError if an alpha is NaN.
        """
        self.check()
        if any(math.isnan(alpha) for alpha in alphas.values()):
            raise ValueError("alpha is NaN; a layer that cannot be fitted has alpha = inf")
        if self.top is not None and costs is None:
            raise OptionError(f"costs of the layers are not known: top {self.top}; give a source with an architecture")
        if self.listed is None and (self.mode == "none" or not alphas):
            return ()
        chosen = set(self._chosen(alphas, costs or {}) if self.listed is None else self.listed)
        return tuple(layer for layer in alphas if layer in chosen)

    def _chosen(self, alphas: Mapping[str, float], costs: Mapping[str, int]) -> list[str]:
        if self.ratio is not None:
            return self._ranked(alphas)[: math.floor(self.ratio * len(alphas) + _ROUNDING)]
        beyond = self._beyond(alphas, median_alpha(alphas) if self.threshold is None else self.threshold)
        if self.mode == "random":
            return self._ranked(alphas)[: len(beyond)]
        return beyond if self.top is None else sorted(beyond, key=lambda layer: -costs.get(layer, 0))[: self.top]

    def _ranked(self, alphas: Mapping[str, float]) -> list[str]:
        """Layers that may be frozen, the first to freeze first."""
        fitted = [layer for layer, alpha in alphas.items() if math.isfinite(alpha)]
        if self.mode == "random":
            return sorted(fitted, key=lambda layer: hashlib.sha256(f"{self.seed}:{layer}".encode()).digest())
        sign = -1 if self.mode == "light" else 1
        return sorted(fitted, key=lambda layer: sign * alphas[layer])

    def _beyond(self, alphas: Mapping[str, float], limit: float) -> list[str]:
        if self.mode == "light":
            return [layer for layer, alpha in alphas.items() if limit < alpha < math.inf]
        return [layer for layer, alpha in alphas.items() if alpha < limit]

    def to_json(self) -> dict[str, Any]:
        """Mode, rule and the rule's number (null where it has none) as a report keeps them."""
        number = next((n for n in (self.ratio, self.threshold, self.top) if n is not None), None)
        return {"freeze": self.mode, "rule": self.rule, "number": number}


def selection_in_words(selection: Mapping[str, Any] | None) -> str:
    """A stored choice, as `Selection.to_json` gives it, in words: "heavy, ratio 0.1"; None: not in the report."""
    if selection is None:
        return "rule not recorded"
    mode, rule, number = (selection.get(key) for key in ("freeze", "rule", "number"))
    if rule in ("list", "none"):
        return "a list" if rule == "list" else "no layer"
    return f"{mode}, {rule}" + (f" {number:g}" if isinstance(number, int | float) else "")


def median_alpha(alphas: Mapping[str, float]) -> float:
    """Median over all layers, the mean of the middle two for an even number; inf counts as the largest value.

    Raises ValueError if there is no layer.
    """
    return float(statistics.median(alphas.values()))
