"""What `analyze` found, as a document and as the tensors of `alpha.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from opentrans_cli.files.records import finite
from opentrans_cli.spectral.measure import LayerSpectrum
from opentrans_cli.spectral.report import alpha_tensors
from opentrans_cli.spectral.trust import Trust
from opentrans_cli.steps.analyze.frontier import FrontierPoint
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.analyze.source import LeftOut


@dataclass(frozen=True)
class AnalyzeResult:
    """What `analyze` found; `frozen` are the layers a fine-tuning with these settings would freeze."""

    source: str
    path: Path | None  # the bundle the report was added to, else the report's folder or picture, else None
    options: AnalyzeOptions
    rule: str  # what chose the frozen layers: median, ratio, threshold, top, none, or list
    median_alpha: float
    layers: tuple[LayerSpectrum, ...]
    frozen: tuple[str, ...]
    trust: Mapping[str, Trust]  # by layer
    left_out: tuple[LeftOut, ...]
    against: Mapping[str, float] = field(default_factory=dict)  # alphas in the other source, by layer
    against_source: str | None = None
    frontier: tuple[FrontierPoint, ...] = ()
    image_size: tuple[int, int] | None = None  # height, width that the frontier is counted for

    @property
    def estimator(self) -> str:
        """By which tails were found."""
        return self.options.estimator

    def decision(self, layer: str) -> str:
        """What fine-tuning would do with a layer."""
        return "frozen" if layer in self.frozen else "trained"

    def tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays and metadata of `alpha.safetensors`."""
        return alpha_tensors(
            self.layers, self.trust, estimator=self.estimator, window=self.options.window, frozen=self.frozen
        )

    def to_json(self) -> dict[str, Any]:
        """The analyze report of `artifacts.schema.json`; numbers that do not exist are null."""
        document: dict[str, Any] = {
            "source": self.source,
            "estimator": self.options.estimator,
            "window": self.options.window,
            "freeze": self.options.freeze,
            "rule": self.rule,
            "median_alpha": finite(self.median_alpha),
            "frozen": len(self.frozen),
            "layers": [self._entry(layer) for layer in self.layers],
            "left_out": [{**asdict(group), "names": list(group.names)} for group in self.left_out],
        }
        if self.against_source is not None:
            document["against"] = self.against_source
        if self.image_size is not None:
            document["resolution"] = list(self.image_size)
            document["frontier"] = [asdict(point) for point in self.frontier]
        return document

    def _entry(self, layer: LayerSpectrum) -> dict[str, Any]:
        entry = {
            "name": layer.name,
            "shape": list(layer.shape),
            "alpha": finite(layer.fit.alpha),
            "ks_distance": layer.fit.ks_distance,
            "xmin": layer.fit.xmin,
            "tail_size": layer.fit.tail_size,
            "standard_error": finite(layer.fit.standard_error),
            "eigenvalues": len(layer.eigenvalues),
            "stable_rank": layer.metrics.stable_rank,
            "decision": self.decision(layer.name),
            "verdict": layer.verdict,
            **self.trust[layer.name].to_json(),
        }
        if layer.name in self.against:
            entry["against_alpha"] = finite(self.against[layer.name])
        return entry
