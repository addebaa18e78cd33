"""A bundle: what it is, how it scored, which weights are left, its spectra, how it was made, and all its reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentrans_cli.bundle.store import Bundle
from opentrans_cli.files.figures import human_bytes, human_count
from opentrans_cli.pictures.page import Page, PageCell
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections import SECTIONS
from opentrans_cli.steps.report.sections.facts import facts_section, title_of, told
from opentrans_cli.steps.report.sections.layers import layers_section
from opentrans_cli.steps.report.sections.scores import scores_table

_SHORT = 19  # characters of a digest, "sha256:" and twelve digits
_OPTIONS = (
    *("source", "sparsity", "criterion", "pattern", "schedule", "rate", "rounds", "random", "like", "distill"),
    "images",
    *("dataset", "split", "framework", "steps", "batch_size", "crop", "lr", "freeze", "freeze_ratio", "estimator"),
    *("checkpoint", "at_sparsity", "curve"),
)
"""What a step was asked for, as far as the page tells it."""


def bundle_section(page: Page, exhibit: Exhibit) -> None:
    """All that is in the bundle. Raises BundleError if it is damaged."""
    bundle = exhibit.bundle
    assert bundle is not None
    page.text(_summary(bundle))
    page.facts(_facts(bundle))
    if scored := [(_named(report), report.document) for report in exhibit.reports if report.kind == "eval_report"]:
        page.heading("Scores")
        scores_table(page, scored)
    page.heading("Layers")
    layers_section(page, bundle.manifest.layers, exhibit.alphas)
    page.heading("How it was made")
    _lineage(page, bundle)
    page.lines(f"opentrans provenance {exhibit.name} > again.sh")
    for report in exhibit.reports:
        with page.part(f"{title_of(report.kind)}: {_named(report)}"):
            tell_exhibit(page, report)
    page.heading("Files")
    page.links([(page.address(bundle.path / entry.name), human_bytes(entry.bytes)) for entry in bundle.manifest.files])


def tell_exhibit(page: Page, exhibit: Exhibit) -> None:
    """Write the section of an exhibit, whatever it is."""
    section = SECTIONS.load(exhibit.kind) if exhibit.kind in SECTIONS.targets else facts_section
    section(page, exhibit)


def _named(report: Exhibit) -> str:
    """A report inside a bundle, by the part of its name that says which it is."""
    return report.name.removeprefix("reports/").removesuffix(".json")


def _summary(bundle: Bundle) -> str:
    """What a bundle is, in a sentence."""
    manifest = bundle.manifest
    trained = "" if manifest.segmentor is None else f", trunk of {manifest.segmentor.framework}"
    return (
        f"{manifest.base.architecture} from {manifest.base.source}, {manifest.pattern}{trained}: "
        f"{manifest.achieved_sparsity:.1%} of its {human_count(manifest.total)} prunable weights are removed, "
        f"{human_count(manifest.kept)} are kept; {human_bytes(bundle.size_bytes)} on disk."
    )


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    size = manifest.base.preprocess["size"]
    facts = {
        "digest": bundle.digest,
        "base": f"{manifest.base.source}, {manifest.base.digest}",
        "architecture": f"{manifest.base.architecture}, {manifest.base.activation}, made for {told(size)} pixels",
        "sparsity": f"{manifest.achieved_sparsity:.4f}, asked for {manifest.target_sparsity:g}",
        "values stored as": ", ".join(sorted({layer.dtype for layer in manifest.layers})),
    }
    if record := manifest.segmentor:
        seen = f", {len(record.seen):,} of them with labels in training" if record.seen else ""
        facts["segmentor"] = f"{record.framework}, {len(record.classes):,} classes{seen}"
        facts["templates"] = "; ".join(record.templates)
    return facts


def _lineage(page: Page, bundle: Bundle) -> None:
    """The base, then every step with the bundle that it started from."""
    base = bundle.manifest.base
    rows: list[list[PageCell]] = [["base", f"{base.source}: {base.digest[:_SHORT]}", "-"]]
    for step in bundle.manifest.steps:
        came = {"seed": step.seed, "from": step.parent, "data": step.data}
        origin = [f"{name} {str(value)[:_SHORT]}" for name, value in came.items() if value is not None]
        rows.append([step.verb, "; ".join([_asked(step.options), *origin]), _figures(step.metrics)])
    page.table(["step", "asked for", "figures"], rows, texts=(1, 2))
    made = {
        ", ".join(f"{name} {number}" for name, number in sorted(step.versions.items()))
        for step in bundle.manifest.steps
    }
    page.note(f"By {'; '.join(sorted(made))}.")


def _asked(options: Mapping[str, Any]) -> str:
    given = {name: options.get(name) for name in _OPTIONS}
    parts = [
        name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {told(value)}"
        for name, value in given.items()
        if value not in (None, False, "", "none") and not isinstance(value, Mapping | list)
    ]
    return ", ".join(parts) or "-"


def _figures(metrics: Mapping[str, Any]) -> str:
    """The numbers among a step's figures, in one line."""
    numbers = {name: value for name, value in metrics.items() if type(value) in (int, float)}
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items()) or "-"
