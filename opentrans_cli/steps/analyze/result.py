"""What `analyze` found and decided, as a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentrans_cli.files.records import finite
from opentrans_cli.spectral.report import RANDOM_LIKE, AlphaReport, LayerAlpha
from opentrans_cli.steps.analyze.options import AnalyzeOptions
from opentrans_cli.steps.analyze.source import LeftOut

if TYPE_CHECKING:
    from opentrans_cli.steps.analyze.frontier import FrontierPoint


@dataclass(frozen=True)
class AnalyzeResult:
    """What `analyze` found and decided."""

    source: str
    path: Path | None  # the bundle the report was added to, else the report's folder or picture, else None
    options: AnalyzeOptions
    report: AlphaReport
    left_out: tuple[LeftOut, ...]
    against: Mapping[str, float] = field(default_factory=dict)  # alphas in the other source, by layer
    against_source: str | None = None
    frontier: tuple[FrontierPoint, ...] = ()
    image_size: tuple[int, int] | None = None  # height and width for which the frontier is counted

    @property
    def layers(self) -> tuple[LayerAlpha, ...]:
        """A record for each layer, in module order."""
        return self.report.layers

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the layers that fine-tuning is to freeze."""
        return self.report.frozen

    @property
    def rule(self) -> str:
        """What chose the frozen layers: median, ratio, threshold, top, list or none."""
        return str((self.report.selection or {})["rule"])

    @property
    def median_alpha(self) -> float:
        """Median alpha of all layers; inf if most have no alpha."""
        return self.report.median

    @property
    def unstable(self) -> int:
        """How many decisions would change with another estimator, or in resamples."""
        return sum(layer.stability is not None and not layer.stability.stable for layer in self.layers)

    @property
    def frozen_random(self) -> int:
        """How many of the frozen layers have a spectrum that random weights could have as well."""
        return sum(layer.frozen and layer.verdict == RANDOM_LIKE for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """The analyze report of `artifacts.schema.json`; numbers that do not exist are null."""
        document: dict[str, Any] = {
            "source": self.source,
            "estimator": self.report.estimator,
            "window": self.report.window,
            **(self.report.selection or {}),
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

    def _entry(self, layer: LayerAlpha) -> dict[str, Any]:
        entry = layer.to_json()
        return entry | {"against_alpha": finite(self.against[layer.name])} if layer.name in self.against else entry
