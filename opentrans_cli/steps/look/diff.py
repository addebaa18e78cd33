"""diff: compare two bundles or two alpha reports side by side. No torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.compare import Comparison, Overlap, compare_subnets
from opentrans_cli.bundle.hub.source import local_bundle
from opentrans_cli.bundle.layout import WEIGHTS
from opentrans_cli.bundle.manifest import SegmentorRecord
from opentrans_cli.bundle.store import Bundle, open_bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import finite
from opentrans_cli.reporter import LOGGED, Reporter
from opentrans_cli.spectral.report import (
    AlphaComparison,
    AlphaReport,
    LayerAlpha,
    bundle_report,
    compare_alphas,
    read_alpha_report,
)


@dataclass(frozen=True)
class Side:
    """One of two bundles."""

    digest: str  # "sha256:<hex>" of base and tensors
    source: str  # of the dense base
    base_digest: str
    pattern: str
    sparsity: float  # removed / total, in [0, 1]
    kept: int
    total: int
    has_weights: bool
    steps: tuple[str, ...]  # verbs, oldest first

    def to_json(self) -> dict[str, Any]:
        """Its entry in the report."""
        return {**vars(self), "steps": list(self.steps)}


@dataclass(frozen=True)
class SubnetDiff:
    """Two bundles."""

    a: Side
    b: Side
    comparison: Comparison
    segmentor: str  # how the segmentors differ, in one line
    segmentor_equal: bool

    @property
    def base_equal(self) -> bool:
        """Whether both were cut from the same weights."""
        return self.a.base_digest == self.b.base_digest

    def to_json(self) -> dict[str, Any]:
        """The part `subnets` of the report."""
        found = self.comparison
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "base_equal": self.base_equal,
            "nested": found.nested,
            "all_layers": _overlap(found.all_layers),
            "layers": [{"name": name, **_overlap(layer)} for name, layer in found.layers.items()],
            **{name: list(getattr(found, name)) for name in ("only_a", "only_b", "other_shape")},
            "segmentor_equal": self.segmentor_equal,
            "segmentor": self.segmentor,
        }


@dataclass(frozen=True)
class DiffResult:
    """What `diff` found; a part is None if one of the sides does not have it."""

    a: str
    b: str
    subnets: SubnetDiff | None
    alphas: AlphaComparison | None
    warnings: tuple[str, ...]  # why numbers may not be comparable, or a part is missing

    def to_json(self) -> dict[str, Any]:
        """The diff report of `artifacts.schema.json`; numbers that do not exist are null."""
        return {
            "a": self.a,
            "b": self.b,
            "subnets": self.subnets.to_json() if self.subnets else None,
            "alphas": _alphas(self.alphas) if self.alphas else None,
            "warnings": list(self.warnings),
        }


def diff(a: str | Path, b: str | Path, *, reporter: Reporter | None = None) -> DiffResult:
    """Compare two bundles, or two alpha reports: those of bundles, `alpha.safetensors`, or `analyze --json`.

    A bundle may be hf://org/name[@revision], which is pulled into the cache first. Raises BundleError if a side is
    neither or is damaged, or if the two have nothing in common, and HubError if a bundle cannot be pulled.
    """
    a, b, reporter = str(a), str(b), reporter or LOGGED
    (bundle_a, report_a), (bundle_b, report_b) = _opened(a, reporter), _opened(b, reporter)
    subnets = _subnets(bundle_a, bundle_b, a, b) if bundle_a and bundle_b else None
    reports = {a: report_a, b: report_b}
    missing = [source for source, report in reports.items() if report is None]
    if subnets is None and missing:
        raise BundleError(f"no alpha report to compare with: {missing[0]}; run `opentrans analyze {missing[0]}`")
    alphas = compare_alphas(report_a, report_b) if report_a and report_b else None
    warnings = (
        [f"{missing[0]} has no alpha report to compare; run `opentrans analyze` on it"]
        if len(missing) == 1 and a != b
        else []
    )
    if alphas is not None:
        warnings += _alpha_warnings(alphas)
        if not alphas.layers and subnets is None:
            raise BundleError(
                f"nothing to compare: {a} and {b} report on other layers; give reports of one architecture"
            )
    return DiffResult(a, b, subnets, alphas, tuple(warnings))


def _opened(source: str, reporter: Reporter) -> tuple[Bundle | None, AlphaReport | None]:
    path = local_bundle(source, reporter)
    if path.is_file():
        return None, read_alpha_report(path)
    bundle = open_bundle(path)
    return bundle, bundle_report(bundle)


def _subnets(a: Bundle, b: Bundle, name_a: str, name_b: str) -> SubnetDiff:
    comparison = compare_subnets(a, b)
    if not comparison.layers:
        raise BundleError(
            f"nothing to compare: {name_a} and {name_b} have no layer of the same name and shape; "
            "give subnets of one architecture"
        )
    segmentors = a.manifest.segmentor, b.manifest.segmentor
    return SubnetDiff(
        a=_side(a),
        b=_side(b),
        comparison=comparison,
        segmentor=segmentor_difference(*segmentors),
        segmentor_equal=segmentors[0] == segmentors[1],
    )


def _side(bundle: Bundle) -> Side:
    manifest = bundle.manifest
    return Side(
        digest=bundle.digest,
        source=manifest.base.source,
        base_digest=manifest.base.digest,
        pattern=manifest.pattern,
        sparsity=manifest.achieved_sparsity,
        kept=manifest.kept,
        total=manifest.total,
        has_weights=bundle.has(WEIGHTS),
        steps=tuple(step.verb for step in manifest.steps),
    )


def segmentor_difference(a: SegmentorRecord | None, b: SegmentorRecord | None) -> str:
    """How two segmentors differ, in one line."""
    if a is None or b is None:
        return "none" if a is b else f"{_segmentor(a)} > {_segmentor(b)}"
    if a == b:
        return f"the same, {_segmentor(a)}"
    framework = a.framework if a.framework == b.framework else f"{a.framework} > {b.framework}"
    names_a, names_b = ({synonyms[0] for synonyms in segmentor.classes} for segmentor in (a, b))
    changes = [
        f"{len(names)} classes {word}"
        for names, word in ((names_b - names_a, "added"), (names_a - names_b, "removed"))
        if names
    ]
    if not changes:
        changes = [f"{'the same' if a.classes == b.classes else 'other order or synonyms of'} {len(b.classes)} classes"]
    rest = [name for name in ("options", "seen", "templates") if getattr(a, name) != getattr(b, name)]
    return ", ".join([framework, *changes, *(f"other {name}" for name in rest)])


def _segmentor(segmentor: SegmentorRecord | None) -> str:
    return f"{segmentor.framework}, {len(segmentor.classes)} classes" if segmentor else "none"


def _alpha_warnings(alphas: AlphaComparison) -> list[str]:
    estimators = f"estimators differ, {alphas.a.fitted_by} and {alphas.b.fitted_by}: alphas are not comparable"
    found = [estimators] if alphas.a.fitted_by != alphas.b.fitted_by else []
    return found if alphas.layers else [*found, "the alpha reports have no layer in common"]


_OVERLAP = ("total", "kept_a", "kept_b", "both", "jaccard", "jaccard_by_chance", "max_difference", "share_differing")


def _overlap(layer: Overlap) -> dict[str, Any]:
    return {name: getattr(layer, name) for name in _OVERLAP}


def _alphas(alphas: AlphaComparison) -> dict[str, Any]:
    return {
        "estimator_a": alphas.a.fitted_by,
        "estimator_b": alphas.b.fitted_by,
        "median_a": finite(alphas.a.median),
        "median_b": finite(alphas.b.median),
        "changed": len(alphas.changed),
        "spearman": alphas.spearman,
        "layers": [_alpha_layer(a, b) for a, b in alphas.layers],
        "only_a": list(alphas.only_a),
        "only_b": list(alphas.only_b),
    }


def _alpha_layer(a: LayerAlpha, b: LayerAlpha) -> dict[str, Any]:
    return {
        "name": a.name,
        "alpha_a": finite(a.alpha),
        "alpha_b": finite(b.alpha),
        "change": finite(b.alpha - a.alpha),
        "decision_a": a.decision,
        "decision_b": b.decision,
    }
