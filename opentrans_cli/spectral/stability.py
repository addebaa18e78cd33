"""Stability of the decision about a layer: under resampling, with other estimators, and against random weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.reporter import Reporter
from opentrans_cli.spectral.esd import Eigenvalues
from opentrans_cli.spectral.esd import eigenvalues as eigenvalues_of
from opentrans_cli.spectral.estimators import Estimator
from opentrans_cli.spectral.measure import in_threads
from opentrans_cli.spectral.report import LayerAlpha, Stability

NULL_SAMPLES = 5
"""Random matrices for each layer: their alphas hardly differ, for a spectrum averages over its eigenvalues."""

# One resample in ten may give the other decision.
_AGREEMENT = 0.9

Alphas = NDArray[np.float64]

Choose = Callable[[Mapping[str, float]], Collection[str]]
"""Alphas by layer, inf where there is none -> the layers to freeze."""


def judge(
    layers: Sequence[LayerAlpha],
    fit: Estimator,
    choose: Choose,
    *,
    resamples: int,
    null: bool,
    seed: int,
    reporter: Reporter,
) -> tuple[LayerAlpha, ...]:
    """`layers` with their stability: by the other estimators always, by `resamples` and random weights if asked.

    choose: the selection, repeated for every resample of all layers together and for every other estimator.
    """

    def resample(layer: LayerAlpha) -> Alphas:
        if math.isinf(layer.alpha):
            return np.full(resamples, math.inf)
        return bootstrap_alphas(layer.eigenvalues, fit, resamples=resamples, seed=_seed("bootstrap", layer.name, seed))

    def randomise(layer: LayerAlpha) -> tuple[float, ...]:
        found = null_alphas(layer.shape, layer.scale, fit, samples=NULL_SAMPLES, seed=_seed("null", layer.name, seed))
        return tuple(sorted(found.tolist()))

    alphas = {layer.name: layer.alpha for layer in layers}
    resampled = dict.fromkeys(alphas, np.empty(0))
    if resamples:
        resampled = _with_bar("resamples", layers, resample, reporter)
    rules = {
        rule: {layer.name: layer.others[rule] for layer in layers} for rule in (layers[0].others if layers else ())
    }
    found = decision_stability(choose, alphas, resampled, rules)
    if resamples:
        found = {name: replace(own, interval=interval(resampled[name])) for name, own in found.items()}
    if null:
        nulls = _with_bar("random weights", layers, randomise, reporter)
        found = {name: replace(own, null=nulls[name]) for name, own in found.items()}
    return tuple(replace(layer, stability=found[layer.name]) for layer in layers)


def _with_bar(
    title: str, layers: Sequence[LayerAlpha], work: Callable[[LayerAlpha], Any], reporter: Reporter
) -> dict[str, Any]:
    found = {}
    with reporter.bar(title, len(layers)) as advance:
        for layer, result in zip(layers, in_threads(work, layers), strict=True):
            found[layer.name] = result
            advance(layer.name)
    return found


def _seed(purpose: str, layer: str, seed: int) -> int:
    """A separate seed for each layer, so that leaving out another layer does not change its figures."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{layer}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def decision_stability(
    choose: Choose,
    alphas: Mapping[str, float],
    resampled: Mapping[str, Alphas],
    other_rules: Mapping[str, Mapping[str, float]],
) -> dict[str, Stability]:
    """Compare every layer's decision with those under resampling and under other estimators, in the order of `alphas`.

    A layer whose alpha has no meaning has alpha = inf in all three arguments. `resampled` holds alphas (B,) by layer:
    entry b of all layers together is one selection, because a layer's decision depends on the others through the
    median. `other_rules` maps the name of an estimator to its alphas by layer.
    Raises ValueError if the layers or the numbers of resamples differ.
    """
    if set(resampled) != set(alphas) or any(set(others) != set(alphas) for others in other_rules.values()):
        raise ValueError("stability needs the same layers in all selections")
    columns = {layer: resampled[layer].tolist() for layer in alphas}
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError("stability needs as many resamples for every layer")
    frozen = set(choose(alphas))
    count = len(next(iter(columns.values()), []))
    again = [set(choose({layer: columns[layer][b] for layer in alphas})) for b in range(count)]
    by_rule = {rule: set(choose({layer: others[layer] for layer in alphas})) for rule, others in other_rules.items()}
    found = {}
    for layer in alphas:
        decision = layer in frozen
        agreement = sum((layer in others) == decision for others in again) / count if count else 1.0
        rules = {rule: (layer in others) == decision for rule, others in by_rule.items()}
        found[layer] = Stability(agreement >= _AGREEMENT and all(rules.values()), rules, agreement)
    return found


def bootstrap_alphas(eigenvalues: Eigenvalues, fit: Estimator, *, resamples: int, seed: int) -> Alphas:
    """alpha of `resamples` new fits to spectra sampled from one with replacement, float64 (B,); Efron's bootstrap.

    `eigenvalues` is (N,), N >= 1. The start of the tail is chosen again every time, so the figures include the
    effect of this choice. alpha is inf where a resample has no fit. Samples depend only on `seed` and N (PCG64),
    not on threads, platform or other layers; give every layer its own seed.

    The result shows how much alpha depends on single eigenvalues and on the choice of xmin. It is not a confidence
    level about the network: the eigenvalues of one matrix repel each other and are not independent, so the spread
    over new matrices of the same kind is mostly smaller. It also does not show whether a power law holds at all;
    see `verdict`.
    """
    total, generator = len(eigenvalues), np.random.Generator(np.random.PCG64(seed))
    alphas = []
    for _ in range(resamples):
        # Sorting positions keeps the values ascending, and is faster than sorting the values.
        sample = np.sort(generator.integers(total, size=total))
        alphas.append(fit(eigenvalues[sample]).alpha)
    return np.array(alphas, np.float64)


def interval(alphas: Alphas, level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of alphas, float64 (B,) with B >= 1, as (low, high); 0 < level < 1.

    Both ends are values that occurred, so an end is inf only if more than (1 - level) / 2 of the resamples
    had no fit. Raises ValueError for a level out of range or no alphas.
    """
    if not 0 < level < 1 or not len(alphas):
        raise ValueError(f"no interval of level {level} over {len(alphas)} alphas")
    ordered, outside = np.sort(alphas), (1 - level) / 2 * len(alphas)
    # The rounding of (1 - level) / 2 must not shift a whole rank.
    low = math.floor(outside + 1e-9)
    return float(ordered[low]), float(ordered[len(alphas) - 1 - low])


def null_alphas(shape: Sequence[int], scale: float, fit: Estimator, *, samples: int, seed: int) -> Alphas:
    """The control, a layer that has learned nothing: alpha of `samples` weights of independent Gaussian entries,
    float64 (samples,); inf where there is no fit.

    `shape` is that of a weight, (O, I) or (O, I, kh, kw); `scale` its root mean square, which matters because
    the threshold of eigenvalues is absolute. If the layer's alpha is inside their range, it gives no
    information about training. The samples depend only on `seed` and `shape` (PCG64).
    Raises SpectrumError for a shape that has no spectrum.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    alphas = []
    for _ in range(samples):
        weight = generator.standard_normal(tuple(shape))
        alphas.append(fit(eigenvalues_of(weight * scale)).alpha)
    return np.array(alphas, np.float64)
