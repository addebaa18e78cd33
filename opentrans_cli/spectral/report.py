"""Reading an alpha report wherever it lies, and comparing two. Without torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import parse_json
from opentrans_cli.files.tensorfile import parse_tensors, read_bytes, read_metadata

if TYPE_CHECKING:  # `diff` and `verify` read reports without torch
    from opentrans_cli.spectral.measure import LayerSpectrum
    from opentrans_cli.spectral.trust import Trust

# The alpha report as a file of tensors: `alpha.safetensors` of a bundle or of a report's folder.


def alpha_tensors(
    spectra: Sequence[LayerSpectrum],
    trust: Mapping[str, Trust],
    *,
    estimator: str,
    window: str,
    frozen: Sequence[str],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and metadata; a value by layer in the order of metadata `layers`, see docs/bundle-format.md."""
    columns = {
        "alpha": [layer.fit.alpha for layer in spectra],
        "xmin": [layer.fit.xmin for layer in spectra],
        "ks_distance": [layer.fit.ks_distance for layer in spectra],
        "standard_error": [layer.fit.standard_error for layer in spectra],
        "stable_rank": [layer.metrics.stable_rank for layer in spectra],
        "log_norm": [layer.metrics.log_norm for layer in spectra],
    }
    intervals = [trust[layer.name].interval for layer in spectra]
    if all(ends is not None for ends in intervals):
        columns["interval_low"] = [ends[0] for ends in intervals if ends is not None]
        columns["interval_high"] = [ends[1] for ends in intervals if ends is not None]
        columns["agreement"] = [trust[layer.name].stability.agreement for layer in spectra]
    arrays: dict[str, np.ndarray] = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    arrays["tail_size"] = np.array([layer.fit.tail_size for layer in spectra], dtype=np.int64)
    arrays |= {f"eigenvalues.{layer.name}": layer.eigenvalues.numpy() for layer in spectra}
    metadata = {
        "estimator": estimator,
        "window": window,
        "layers": [layer.name for layer in spectra],
        "frozen": list(frozen),
        "verdicts": [layer.verdict for layer in spectra],
        "stable": [trust[layer.name].stability.stable for layer in spectra],
    }
    return arrays, metadata


def recorded_alphas(bundle: Bundle, *, estimator: str) -> dict[str, float] | None:
    """Alphas by layer from the bundle's own report, as the selection takes them: inf where not to be trusted.

    None if there is no report by this estimator in its published form, or if it does not say its layers.
    """
    report = bundle_report(bundle)
    if report is None or report.estimator != estimator:
        return None
    return {name: layer.alpha for name, layer in report.layers.items()}


@dataclass(frozen=True)
class AlphaComparison:
    """Reports A and B, and their layers side by side."""

    a: AlphaReport
    b: AlphaReport
    layers: dict[str, tuple[LayerAlpha, LayerAlpha]]  # in both, in the order of A
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """Layers frozen in one and trained in the other."""
        return tuple(name for name, (a, b) in self.layers.items() if a.frozen != b.frozen)

    @property
    def spearman(self) -> float | None:
        """Rank correlation of the alphas, in [-1, 1], over layers fitted in both; None if it does not exist."""
        pairs = [
            (a.alpha, b.alpha) for a, b in self.layers.values() if math.isfinite(a.alpha) and math.isfinite(b.alpha)
        ]
        return rank_correlation([a for a, _ in pairs], [b for _, b in pairs])


def compare_alphas(a: AlphaReport, b: AlphaReport) -> AlphaComparison:
    """Layers are matched by their whole names."""
    return AlphaComparison(
        a=a,
        b=b,
        layers={name: (layer, b.layers[name]) for name, layer in a.layers.items() if name in b.layers},
        only_a=tuple(name for name in a.layers if name not in b.layers),
        only_b=tuple(name for name in b.layers if name not in a.layers),
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


UNTRUSTED = frozenset(
    ("zero matrix", "degenerate spectrum", "too few eigenvalues", "below threshold", "no tail in window")
)
"""Verdicts of layers whose alpha says nothing, and which are never frozen."""

_PUBLISHED_WINDOW = "log"  # of reports that do not say


@dataclass(frozen=True)
class LayerAlpha:
    """What a report says about one layer."""

    alpha: float  # as the selection takes it: inf where it is not to be trusted
    frozen: bool

    @property
    def decision(self) -> str:
        """What fine-tuning does with it."""
        return "frozen" if self.frozen else "trained"


@dataclass(frozen=True)
class AlphaReport:
    """The alphas of one source."""

    estimator: str  # with its window where that is not the published one: "xmin_peak (linear)"
    layers: dict[str, LayerAlpha]

    @property
    def median(self) -> float:
        """Of all layers; inf counts as the largest value."""
        return float(statistics.median(layer.alpha for layer in self.layers.values()))


def bundle_report(bundle: Bundle) -> AlphaReport | None:
    """The report in a bundle; None before `analyze`, or if it does not say its layers, as the format allows.

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
    window = document.get("window", _PUBLISHED_WINDOW)
    layers = {
        entry["name"]: _layer(entry["alpha"], entry["verdict"], frozen=entry["decision"] == "frozen")
        for entry in document["layers"]
    }
    return _report(document["estimator"], window, layers, where=str(path))


def _from_arrays(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], *, where: str) -> AlphaReport:
    names, frozen, verdicts = (_texts(metadata.get(key)) for key in ("layers", "frozen", "verdicts"))
    alphas = arrays.get("alpha")
    if names is None or frozen is None or verdicts is None or not isinstance(metadata.get("estimator"), str):
        raise _no_report(where, "its metadata lack estimator, layers, frozen or verdicts")
    if alphas is None or alphas.shape != (len(names),) or len(verdicts) != len(names) or alphas.dtype != np.float64:
        raise _no_report(where, "it has not one alpha and one verdict for each layer")
    layers = {
        name: _layer(alpha, verdict, frozen=name in frozen)
        for name, alpha, verdict in zip(names, alphas.tolist(), verdicts, strict=True)
    }
    return _report(metadata["estimator"], metadata.get("window", _PUBLISHED_WINDOW), layers, where=where)


def _layer(alpha: float | None, verdict: str, *, frozen: bool) -> LayerAlpha:
    usable = alpha is not None and math.isfinite(alpha) and verdict not in UNTRUSTED
    return LayerAlpha(float(alpha) if alpha is not None and usable else math.inf, frozen)


def _report(estimator: str, window: object, layers: dict[str, LayerAlpha], *, where: str) -> AlphaReport:
    if not layers or not isinstance(window, str):
        raise _no_report(where, "it has no layers" if not layers else "its window is not text")
    return AlphaReport(estimator if window == _PUBLISHED_WINDOW else f"{estimator} ({window})", layers)


def _texts(value: object) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _no_report(where: str, reason: str) -> BundleError:
    return BundleError(
        f"not an alpha report: {where!r}, {reason}; give a bundle, an alpha.safetensors, or the JSON of "
        "`opentrans analyze --json`"
    )
