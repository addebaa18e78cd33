"""Reading an alpha report wherever it lies, and comparing two. Without torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.bundle.records import parse_json
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.bundle.tensorfile import parse_tensors, read_bytes, read_metadata
from opentrans_cli.errors import BundleError

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
