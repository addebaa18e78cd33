"""The alpha report as a file of tensors: `alpha.safetensors` of a bundle or of a report's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from opentrans_cli.bundle.alpha_report import bundle_report
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.steps.spectra import LayerSpectrum
from opentrans_cli.steps.trust import Trust


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
