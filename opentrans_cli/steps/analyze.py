"""analyze: the spectrum of every convolution, its alpha, and which layers fine-tuning would freeze."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opentrans_cli.bundle.layout import ALPHA
from opentrans_cli.bundle.store import Bundle, add_file
from opentrans_cli.clip.layers import convolutions, layer_weight
from opentrans_cli.errors import SpectrumError
from opentrans_cli.spectral.esd import SpectrumMetrics, eigenvalues, spectrum_metrics
from opentrans_cli.spectral.estimators import ESTIMATORS
from opentrans_cli.spectral.power_law import PowerLawFit, verdict
from opentrans_cli.spectral.selection import FreezeMode, median_alpha, select_frozen
from opentrans_cli.steps.provenance import step_record
from opentrans_cli.steps.reporter import SILENT, Reporter
from opentrans_cli.steps.sources import Tower, load_tower


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer's spectrum and fit."""

    name: str
    eigenvalues: torch.Tensor  # float64 (n,), ascending
    fit: PowerLawFit
    metrics: SpectrumMetrics
    verdict: str

    def to_json(self, decision: str) -> dict[str, Any]:
        """The layer's entry in the report; numbers that do not exist are null."""
        return {
            "name": self.name,
            "alpha": _number(self.fit.alpha),
            "ks_distance": _number(self.fit.ks_distance),
            "xmin": _number(self.fit.xmin),
            "tail_size": self.fit.tail_size,
            "standard_error": _number(self.fit.standard_error),
            "eigenvalues": len(self.eigenvalues),
            "stable_rank": _number(self.metrics.stable_rank),
            "decision": decision,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class AnalyzeResult:
    """What `analyze` found; `frozen` are the layers a fine-tuning with these settings would freeze."""

    source: str
    path: Path | None  # the bundle the report was added to
    estimator: str
    median_alpha: float
    layers: tuple[LayerSpectrum, ...]
    frozen: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The analyze report of `artifacts.schema.json`."""
        return {
            "estimator": self.estimator,
            "median_alpha": _number(self.median_alpha),
            "layers": [layer.to_json("frozen" if layer.name in self.frozen else "trained") for layer in self.layers],
        }


def analyze(
    source: str,
    *,
    estimator: str = "xmin_peak",
    freeze: FreezeMode = "heavy",
    freeze_ratio: float = 0.5,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> AnalyzeResult:
    """Fit every convolution's spectrum and choose the layers to freeze; a bundle gets `alpha.safetensors`.

    Heavy tail = small alpha = well trained = frozen (OpenTrans, Sec. 3.3.2): by default the layers below the median.
    Raises OptionError, SourceError, BundleError or SpectrumError.
    """
    ESTIMATORS.load(estimator)
    select_frozen({}, mode=freeze, ratio=freeze_ratio)  # refuses wrong options before the long part
    tower = load_tower(source, reporter)
    spectra = tower_spectra(tower, estimator=estimator, reporter=reporter)
    alphas = {layer.name: layer.fit.alpha for layer in spectra}
    frozen = select_frozen(alphas, mode=freeze, ratio=freeze_ratio, seed=seed)
    result = AnalyzeResult(
        source, tower.bundle.path if tower.bundle else None, estimator, median_alpha(alphas), spectra, frozen
    )
    if tower.bundle is not None:
        _record(
            tower.bundle,
            result,
            {"estimator": estimator, "freeze": freeze, "freeze_ratio": freeze_ratio},
            seed,
        )
    return result


def tower_spectra(tower: Tower, *, estimator: str, reporter: Reporter = SILENT) -> tuple[LayerSpectrum, ...]:
    """Spectra of all convolutions of a tower, the first included, in module order."""
    fit_spectrum = ESTIMATORS.load(estimator)
    layers = convolutions(tower.visual)
    spectra = []
    with reporter.bar("spectra", len(layers)) as advance:
        for name in layers:
            try:
                values = eigenvalues(layer_weight(tower.visual, name).detach())
            except SpectrumError as error:
                raise SpectrumError(f"{error}: layer {name}; repair or replace the checkpoint") from error
            fit = fit_spectrum(values)
            spectra.append(LayerSpectrum(name, values, fit, spectrum_metrics(values), verdict(values, fit)))
            advance(name)
    return tuple(spectra)


def recorded_alphas(bundle: Bundle, *, estimator: str) -> dict[str, float] | None:
    """Alphas by layer from the bundle's own report; None if there is none by this estimator."""
    stored = bundle.alpha()
    if stored is None or stored[1].get("estimator") != estimator:
        return None
    arrays, metadata = stored
    return dict(zip(metadata["layers"], arrays["alpha"].tolist(), strict=True))


def _record(bundle: Bundle, result: AnalyzeResult, options: dict[str, Any], seed: int) -> None:
    spectra = result.layers
    columns = {
        "alpha": [layer.fit.alpha for layer in spectra],
        "xmin": [layer.fit.xmin for layer in spectra],
        "ks_distance": [layer.fit.ks_distance for layer in spectra],
        "standard_error": [layer.fit.standard_error for layer in spectra],
        "stable_rank": [layer.metrics.stable_rank for layer in spectra],
        "log_norm": [layer.metrics.log_norm for layer in spectra],
    }
    arrays: dict[str, np.ndarray] = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    arrays["tail_size"] = np.array([layer.fit.tail_size for layer in spectra], dtype=np.int64)
    arrays |= {f"eigenvalues.{layer.name}": layer.eigenvalues.numpy() for layer in spectra}
    metadata = {
        "estimator": result.estimator,
        "layers": [layer.name for layer in spectra],
        "frozen": list(result.frozen),
        "verdicts": [layer.verdict for layer in spectra],
    }
    step = step_record("analyze", options, seed=seed, metrics={"median_alpha": _number(result.median_alpha)})
    add_file(bundle, ALPHA, (arrays, metadata), step=step)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
