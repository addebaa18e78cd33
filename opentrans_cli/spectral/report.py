"""The alpha report: one record per layer, from the spectrum to the decision, in memory, as tensors and as JSON.

This module does not import torch, so that reports can be read and compared quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import finite, parse_json
from opentrans_cli.files.tensorfile import parse_tensors, read_bytes, read_metadata
from opentrans_cli.spectral.selection import Selection, median_alpha

PROBLEMS = ("zero matrix", "too few eigenvalues", "degenerate spectrum", "below threshold", "no tail in window")
"""Verdicts of layers whose alpha says nothing; no rule freezes them."""

RANDOM_LIKE = "random-like"
"""Verdict of layers whose eigenvalues could be those of random weights; it informs only."""

_PUBLISHED_WINDOW = "log"  # of reports that do not state it
_FIT = ("alpha", "xmin", "ks_distance", "tail_size", "standard_error")


@dataclass(frozen=True)
class PowerLawFit:
    """One fitted tail, p(x) ~ x**-alpha. A spectrum without a fit has alpha = inf, the lightest possible tail."""

    alpha: float  # exponent, > 1; smaller = heavier tail = better trained
    xmin: float  # where the tail starts, in units of the eigenvalues
    ks_distance: float  # largest gap between empirical and fitted CDF, in [0, 1]
    tail_size: int  # eigenvalues at or above xmin; if few, alpha depends on each of them; 0: not fitted
    standard_error: float  # of alpha, (alpha - 1) / sqrt(tail_size)


@dataclass(frozen=True)
class Stability:
    """Stability of the decision about one layer, frozen or trained; None where it was not requested."""

    stable: bool  # agreement of at least 0.9, and every other estimator decides the same
    by_rule: Mapping[str, bool] = field(default_factory=dict)  # other estimator -> same decision
    agreement: float = 1.0  # share of resamples with the same decision, in [0, 1]; 1 without resamples
    interval: tuple[float, float] | None = None  # alphas of 95 % of the resamples
    null: tuple[float, ...] | None = None  # alphas of random weights of the same shape and scale, ascending

    @property
    def null_median(self) -> float | None:
        """Median of `null`."""
        return None if self.null is None else self.null[len(self.null) // 2]

    def to_json(self) -> dict[str, Any]:
        """The stability fields of the layer's entry in the report."""
        entry: dict[str, Any] = {"stable": self.stable, "same_decision_by": dict(self.by_rule)}
        if self.interval is not None:
            entry |= {"interval": [finite(end) for end in self.interval], "agreement": self.agreement}
        if self.null is not None:
            ends = {"median": self.null_median, "lowest": self.null[0], "highest": self.null[-1]}
            entry["null_alpha"] = {name: None if end is None else finite(end) for name, end in ends.items()}
        return entry


@dataclass(frozen=True)
class LayerAlpha:
    """The figures of one layer and the decision about it. Fields that a stored report does not contain are left out."""

    name: str
    fit: PowerLawFit  # of the tail, by the report's estimator
    verdict: str  # in words, see `power_law.verdict`
    frozen: bool = False  # whether fine-tuning freezes the layer
    stability: Stability | None = None  # of that decision
    eigenvalues: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), compare=False)  # (n,), ascending
    shape: tuple[int, ...] = field(default=(), compare=False)  # of the weight, (O, I, kh, kw) or (O, I)
    scale: float = field(default=math.nan, compare=False)  # root mean square of the weight
    stable_rank: float = field(default=math.nan, compare=False)  # sum of the eigenvalues / the largest; 0: zero matrix
    log_norm: float = field(default=math.nan, compare=False)  # log10 of their sum; -inf for a zero matrix
    others: Mapping[str, float] = field(default_factory=dict, compare=False)  # alphas by other estimators, as `alpha`

    @property
    def alpha(self) -> float:
        """Exponent as rules compare it: inf where the verdict says that it has no meaning."""
        return self.fit.alpha if self.verdict not in PROBLEMS else math.inf

    @property
    def decision(self) -> str:
        """The decision for fine-tuning: "frozen" or "trained"."""
        return "frozen" if self.frozen else "trained"

    @property
    def interval(self) -> tuple[float, float] | None:
        """Alphas of 95 % of the resamples; None without resamples."""
        return None if self.stability is None else self.stability.interval

    @property
    def unstable(self) -> bool:
        """Whether another estimator, or resamples, would give the other decision."""
        return self.stability is not None and not self.stability.stable

    def to_json(self) -> dict[str, Any]:
        """The layer's entry in `analyze_report` of `artifacts.schema.json`; numbers that do not exist are null."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "alpha": finite(self.fit.alpha),
            "ks_distance": self.fit.ks_distance,
            "xmin": self.fit.xmin,
            "tail_size": self.fit.tail_size,
            "standard_error": finite(self.fit.standard_error),
            "eigenvalues": len(self.eigenvalues),
            "stable_rank": self.stable_rank,
            "decision": self.decision,
            "verdict": self.verdict,
            **({} if self.stability is None else self.stability.to_json()),
        }


@dataclass(frozen=True)
class AlphaReport:
    """All layers of one source, and the rule by which those to freeze were chosen."""

    estimator: str  # by which tails were found
    window: str  # of xmin_peak: log (as published) or linear
    layers: tuple[LayerAlpha, ...]
    selection: Mapping[str, Any] | None = None  # as `Selection.to_json`; None: the report does not state it

    @classmethod
    def chosen(
        cls, estimator: str, window: str, layers: Sequence[LayerAlpha], frozen: Sequence[str], selection: Selection
    ) -> AlphaReport:
        """The report of `layers`, where `selection` chose to freeze those named in `frozen`."""
        names = set(frozen)
        decided = tuple(replace(layer, frozen=layer.name in names) for layer in layers)
        return cls(estimator, window, decided, selection.to_json())

    @property
    def fitted_by(self) -> str:
        """The estimator, with its window where that is not the published one: "xmin_peak (linear)"."""
        return self.estimator if self.window == _PUBLISHED_WINDOW else f"{self.estimator} ({self.window})"

    @property
    def alphas(self) -> dict[str, float]:
        """Exponents by layer, as rules compare them."""
        return {layer.name: layer.alpha for layer in self.layers}

    @property
    def median(self) -> float:
        """Median alpha of all layers; inf counts as the largest value."""
        return median_alpha(self.alphas)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the layers to freeze."""
        return tuple(layer.name for layer in self.layers if layer.frozen)

    def tensors(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and metadata of `alpha.safetensors` (see docs/bundle-format.md); only for a measured report."""
        stability = [layer.stability for layer in self.layers if layer.stability is not None]
        arrays: dict[str, NDArray[Any]] = {
            name: np.array([getattr(layer.fit, name) for layer in self.layers], np.float64)
            for name in _FIT
            if name != "tail_size"
        }
        arrays["tail_size"] = np.array([layer.fit.tail_size for layer in self.layers], np.int64)
        for name in ("stable_rank", "log_norm"):
            arrays[name] = np.array([getattr(layer, name) for layer in self.layers], np.float64)
        ends = [found.interval for found in stability if found.interval is not None]
        if len(ends) == len(self.layers):
            arrays["interval_low"], arrays["interval_high"] = np.array(ends, np.float64).T.copy()
            arrays["agreement"] = np.array([found.agreement for found in stability], np.float64)
        arrays |= {f"eigenvalues.{layer.name}": layer.eigenvalues for layer in self.layers}
        metadata = {
            "estimator": self.estimator,
            "window": self.window,
            "layers": [layer.name for layer in self.layers],
            "frozen": list(self.frozen),
            "verdicts": [layer.verdict for layer in self.layers],
            "stable": [found.stable for found in stability],
            "selection": self.selection,
        }
        return arrays, metadata


def bundle_report(bundle: Bundle) -> AlphaReport | None:
    """The report in a bundle; None before `analyze`, or if it does not name its layers, as the format allows.

    Raises BundleError when it is damaged.
    """
    stored = bundle.alpha()
    if stored is None:
        return None
    try:
        return _from_arrays(*stored, where=str(bundle.path))
    except BundleError:
        return None


def read_alpha_report(path: Path) -> AlphaReport:
    """The report in a file: `alpha.safetensors`, or what `analyze --json` printed. Raises BundleError."""
    if path.suffix == ".safetensors":
        return _from_arrays(parse_tensors(read_bytes(path), path), read_metadata(path), where=str(path))
    try:
        document = parse_json(read_bytes(path), path.name)
        check_document(document, "analyze_report")
    except BundleError as error:
        reason = str(error).split(";")[0]
        raise _no_report(str(path), reason) from error
    layers = [
        LayerAlpha(entry["name"], _fit(entry), entry["verdict"], entry["decision"] == "frozen")
        for entry in document["layers"]
    ]
    selection = {key: document.get(key) for key in ("freeze", "rule", "number")} if "rule" in document else None
    return _report(document["estimator"], document.get("window"), layers, selection, where=str(path))


def _from_arrays(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], *, where: str) -> AlphaReport:
    names, frozen, verdicts = (_texts(metadata.get(key)) for key in ("layers", "frozen", "verdicts"))
    if names is None or frozen is None or verdicts is None or not isinstance(metadata.get("estimator"), str):
        raise _no_report(where, "its metadata lack estimator, layers, frozen or verdicts")
    alphas = arrays.get("alpha")
    if alphas is None or alphas.shape != (len(names),) or len(verdicts) != len(names) or alphas.dtype != np.float64:
        raise _no_report(where, "it has not one alpha and one verdict for each layer")
    columns = {name: arrays[name].tolist() for name in _FIT if name in arrays and arrays[name].shape == alphas.shape}
    layers = [
        LayerAlpha(
            name,
            _fit({key: values[place] for key, values in columns.items()}),
            verdict,
            name in frozen,
            eigenvalues=arrays.get(f"eigenvalues.{name}", np.zeros(0)),
        )
        for place, (name, verdict) in enumerate(zip(names, verdicts, strict=True))
    ]
    selection = metadata.get("selection")
    stored = selection if isinstance(selection, dict) else None
    return _report(metadata["estimator"], metadata.get("window"), layers, stored, where=where)


def _fit(values: Mapping[str, Any]) -> PowerLawFit:
    """The fit in a report; missing values are infinite, and so is an exponent that is not a number."""
    numbers: dict[str, Any] = {name: math.inf if values.get(name) is None else values[name] for name in _FIT}
    return PowerLawFit(**{**numbers, "alpha": numbers["alpha"] if math.isfinite(numbers["alpha"]) else math.inf})


def _report(
    estimator: str, window: object, layers: list[LayerAlpha], selection: Mapping[str, Any] | None, *, where: str
) -> AlphaReport:
    window = _PUBLISHED_WINDOW if window is None else window
    if not layers or not isinstance(window, str):
        raise _no_report(where, "it has no layers" if not layers else "its window is not text")
    return AlphaReport(estimator, window, tuple(layers), selection)


def _texts(value: object) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _no_report(where: str, reason: str) -> BundleError:
    return BundleError(
        f"not an alpha report: {where!r}, {reason}; give a bundle, an alpha.safetensors, or the JSON of "
        "`opentrans analyze --json`"
    )


@dataclass(frozen=True)
class AlphaComparison:
    """Reports A and B, and their layers side by side."""

    a: AlphaReport
    b: AlphaReport
    layers: tuple[tuple[LayerAlpha, LayerAlpha], ...]  # in both, in the order of A
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """Layers frozen in one and trained in the other."""
        return tuple(a.name for a, b in self.layers if a.frozen != b.frozen)

    @property
    def spearman(self) -> float | None:
        """Rank correlation of the alphas, in [-1, 1], over layers fitted in both; None if it does not exist."""
        pairs = [(a.alpha, b.alpha) for a, b in self.layers if math.isfinite(a.alpha) and math.isfinite(b.alpha)]
        return rank_correlation([a for a, _ in pairs], [b for _, b in pairs])


def compare_alphas(a: AlphaReport, b: AlphaReport) -> AlphaComparison:
    """Compare two reports; layers are matched by their whole names."""
    in_a, in_b = ({layer.name: layer for layer in report.layers} for report in (a, b))
    return AlphaComparison(
        a=a,
        b=b,
        layers=tuple((layer, in_b[name]) for name, layer in in_a.items() if name in in_b),
        only_a=tuple(name for name in in_a if name not in in_b),
        only_b=tuple(name for name in in_b if name not in in_a),
    )


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rho of finite numbers, in [-1, 1]: Pearson's of their ranks, equal values sharing the mean rank.

    None for fewer than two pairs, or where one side has one value only.
    """
    ranks = [_ranks(np.asarray(values, dtype=np.float64)) for values in (a, b)]
    centred = [rank - rank.mean() for rank in ranks] if len(a) > 1 else []
    if not centred or not all(rank.any() for rank in centred):
        return None
    x, y = centred
    return float(np.clip((x @ y) / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: NDArray[np.float64] = last - (counts - 1) / 2
    return mean[place]
