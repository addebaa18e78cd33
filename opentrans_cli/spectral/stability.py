"""Whether the decision about a layer, frozen or trained, survives other draws and other rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

# One resample in ten may decide otherwise.
_AGREEMENT = 0.9


@dataclass(frozen=True)
class Stability:
    """How firm one layer's decision is; frozen layers and trained ones alike."""

    agreement: float  # share of resamples with the same decision, in [0, 1]; 1 without resamples
    by_rule: Mapping[str, bool]  # other rule for xmin -> same decision
    stable: bool  # agreement of at least 0.9, and every other rule decides the same


def decision_stability(
    choose: Callable[[Mapping[str, float]], Collection[str]],
    alphas: Mapping[str, float],
    resampled: Mapping[str, Tensor],
    other_rules: Mapping[str, Mapping[str, float]],
) -> dict[str, Stability]:
    """Compare every layer's decision with those under resampling and under other rules, in the order of `alphas`.

    `choose` maps alphas by layer to the layers frozen; a layer that is not trusted has alpha = inf in all
    three. `resampled` holds alphas (B,) by layer: entry b of all layers together is one selection, because
    a layer's decision depends on the others through the median. `other_rules` maps the name of a rule to its
    alphas by layer.
    Raises ValueError if the layers or the numbers of resamples differ.
    """
    if set(resampled) != set(alphas) or any(set(others) != set(alphas) for others in other_rules.values()):
        raise ValueError("stability needs the same layers in all selections")
    draws = {layer: resampled[layer].tolist() for layer in alphas}
    if len({len(values) for values in draws.values()}) > 1:
        raise ValueError("stability needs as many resamples for every layer")
    frozen = set(choose(alphas))
    count = len(next(iter(draws.values()), []))
    redrawn = [set(choose({layer: draws[layer][b] for layer in alphas})) for b in range(count)]
    by_rule = {rule: set(choose({layer: others[layer] for layer in alphas})) for rule, others in other_rules.items()}
    return {layer: _stability(layer, frozen, redrawn, by_rule) for layer in alphas}


def _stability(layer: str, frozen: set[str], redrawn: list[set[str]], by_rule: Mapping[str, set[str]]) -> Stability:
    decision = layer in frozen
    same = sum((layer in others) == decision for others in redrawn)
    agreement = same / len(redrawn) if redrawn else 1.0
    rules = {rule: (layer in others) == decision for rule, others in by_rule.items()}
    return Stability(agreement, rules, agreement >= _AGREEMENT and all(rules.values()))
