"""How far a layer's alpha, and the decision that follows from it, can be relied on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opentrans_cli.files.records import finite
from opentrans_cli.reporter import Reporter
from opentrans_cli.spectral.bootstrap import bootstrap_alphas, interval
from opentrans_cli.spectral.estimators import Estimator
from opentrans_cli.spectral.measure import LayerSpectrum, in_threads
from opentrans_cli.spectral.null import null_alphas
from opentrans_cli.spectral.stability import Stability, decision_stability

NULL_DRAWS = 5
"""Random matrices drawn for a layer: their alphas hardly differ, for a spectrum averages over its eigenvalues."""

Choose = Callable[[Mapping[str, float]], Collection[str]]
"""Alphas by layer, inf where there is none -> the layers to freeze."""


@dataclass(frozen=True)
class Trust:
    """What is known of one layer's alpha beyond its value; None where it was not asked for."""

    stability: Stability
    interval: tuple[float, float] | None  # 95 % of the resamples
    null: tuple[float, ...] | None  # alphas of random weights of the same shape and scale, ascending

    @property
    def null_median(self) -> float | None:
        """The middle one of `null`."""
        return None if self.null is None else self.null[len(self.null) // 2]

    def to_json(self) -> dict[str, Any]:
        """The fields it adds to the layer's entry in the report."""
        entry: dict[str, Any] = {
            "stable": self.stability.stable,
            "same_decision_by": dict(self.stability.by_rule),
        }
        if self.interval is not None:
            entry |= {"interval": [finite(end) for end in self.interval], "agreement": self.stability.agreement}
        if self.null is not None and self.null_median is not None:
            entry["null_alpha"] = {
                "median": finite(self.null_median),
                "lowest": finite(self.null[0]),
                "highest": finite(self.null[-1]),
            }
        return entry


def judge(
    spectra: Sequence[LayerSpectrum],
    fit: Estimator,
    choose: Choose,
    *,
    resamples: int,
    null: bool,
    seed: int,
    reporter: Reporter,
) -> dict[str, Trust]:
    """Trust in every layer of `spectra`: by the other estimators always, by `resamples` and random weights if asked.

    choose: the selection, asked again for every resample of all layers together and for every other estimator.
    """
    alphas = {layer.name: layer.alpha for layer in spectra}
    resampled = (
        _resampled(spectra, fit, resamples=resamples, seed=seed, reporter=reporter)
        if resamples
        else dict.fromkeys(alphas, torch.empty(0))
    )
    rules = {rule: {layer.name: layer.other_alpha(rule) for layer in spectra} for rule in _rules(spectra)}
    stability = decision_stability(choose, alphas, resampled, rules)
    nulls = _nulls(spectra, fit, seed=seed, reporter=reporter) if null else {}
    return {
        name: Trust(
            stability=stability[name],
            interval=interval(resampled[name]) if resamples else None,
            null=nulls.get(name),
        )
        for name in alphas
    }


def _rules(spectra: Sequence[LayerSpectrum]) -> tuple[str, ...]:
    return tuple(spectra[0].others) if spectra else ()


def _resampled(
    spectra: Sequence[LayerSpectrum], fit: Estimator, *, resamples: int, seed: int, reporter: Reporter
) -> dict[str, Tensor]:
    def work(layer: LayerSpectrum) -> Tensor:
        if math.isinf(layer.alpha):
            return torch.full((resamples,), math.inf, dtype=torch.float64)
        return bootstrap_alphas(layer.eigenvalues, fit, resamples=resamples, seed=_seed("bootstrap", layer.name, seed))

    return _with_bar("resamples", spectra, work, reporter)


def _nulls(
    spectra: Sequence[LayerSpectrum], fit: Estimator, *, seed: int, reporter: Reporter
) -> dict[str, tuple[float, ...]]:
    def work(layer: LayerSpectrum) -> tuple[float, ...]:
        drawn = null_alphas(layer.shape, layer.scale, fit, draws=NULL_DRAWS, seed=_seed("null", layer.name, seed))
        return tuple(sorted(drawn.tolist()))

    return _with_bar("random weights", spectra, work, reporter)


def _with_bar(
    title: str, spectra: Sequence[LayerSpectrum], work: Callable[[LayerSpectrum], Any], reporter: Reporter
) -> dict[str, Any]:
    found = {}
    with reporter.bar(title, len(spectra)) as advance:
        for layer, result in zip(spectra, in_threads(work, spectra), strict=True):
            found[layer.name] = result
            advance(layer.name)
    return found


def _seed(purpose: str, layer: str, seed: int) -> int:
    """A seed of the layer's own: leaving another layer out must not change this one's figures."""
    digest = hashlib.sha256(f"{purpose}:{seed}:{layer}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
