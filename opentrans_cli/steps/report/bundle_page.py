"""The page of a bundle: what it is, how it scored, which weights are left, its spectra, and how it was made."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.schema import read_report, report_kind
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.files.figures import human_bytes, human_count, percent
from opentrans_cli.pictures.charts import density_chart
from opentrans_cli.pictures.page import Page, PagePicture
from opentrans_cli.pictures.tower_page import tower_page
from opentrans_cli.spectral.report import bundle_report


def bundle_page(bundle: Bundle, *, beside: Path) -> Page:
    """The page about `bundle`, to be put into the folder `beside`. Raises BundleError if it is damaged."""
    manifest = bundle.manifest
    page = Page(bundle.path.name)
    trained = "" if manifest.segmentor is None else f", trunk of {manifest.segmentor.framework}"
    page.text(
        f"{manifest.base.architecture} from {manifest.base.source}, {manifest.pattern}{trained}: "
        f"{manifest.achieved_sparsity:.1%} of its {human_count(manifest.total)} prunable weights are removed, "
        f"{human_count(manifest.kept)} are kept; {human_bytes(bundle.size_bytes)} on disk."
    )
    evaluations = list(_documents(bundle, "eval_report"))
    if evaluations:
        page.heading("Scores")
        page.table(
            ["data set", "mIoU, %", "seen classes", "unseen", "images", "weights kept", "MACs"],
            [
                [
                    report["dataset"],
                    *(percent(report[name]) for name in ("miou", "miou_seen", "miou_unseen")),
                    str(report["images"]),
                    human_count(report["params_kept"]),
                    human_count(report["macs_kept"]),
                ]
                for report in evaluations
            ],
        )
    page.heading("Weights kept in each layer")
    layers = [(layer.name, layer.kept, layer.total) for layer in manifest.layers]
    page.pictures([_drawn(lambda path: density_chart(path, layers, title=""), "")], least=640)
    alphas = bundle_report(bundle)
    if alphas is not None and all(len(layer.eigenvalues) for layer in alphas.layers):
        page.heading("How well each layer was trained")
        caption = "Alpha of each layer, a small one for a heavy tail, that is well trained, and its eigenvalues"
        drawn = _drawn(
            lambda path: tower_page(
                path, alphas.layers, source=bundle.path.name, estimator=alphas.estimator, median=alphas.median
            ),
            caption,
        )
        page.pictures([drawn], least=640)
    page.heading("How it was made")
    page.table(
        ["step", "seed", "figures"],
        [[step.verb, "-" if step.seed is None else str(step.seed), _figures(step.metrics)] for step in manifest.steps],
    )
    page.lines(f"opentrans provenance {bundle.path.name} > again.sh")
    for report in evaluations:
        _classes(page, report)
    page.heading("Files")
    inside = Path(os.path.relpath(bundle.path, beside))
    page.links([((inside / entry.name).as_posix(), human_bytes(entry.bytes)) for entry in manifest.files])
    return page


def _documents(bundle: Bundle, kind: str) -> Iterator[dict[str, Any]]:
    for entry in bundle.manifest.files:
        if report_kind(entry.name) == kind:
            yield read_report(bundle.file_path(entry.name))


def _classes(page: Page, report: Mapping[str, Any]) -> None:
    """The classes of one evaluation, best first; those that no image shows are left out."""
    scored = sorted((entry for entry in report["per_class"] if entry["iou"] is not None), key=lambda e: -e["iou"])
    page.heading(f"Classes of {report['dataset']}")
    page.table(
        ["class", "IoU, %", "labels in training"],
        [[entry["name"], percent(entry["iou"]), "yes" if entry["seen"] else "no"] for entry in scored],
        shares=[entry["iou"] for entry in scored],
    )


def _drawn(draw: Callable[[Path], None], caption: str) -> PagePicture:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chart.png"
        draw(path)
        return PagePicture(path.read_bytes(), caption)


def _figures(metrics: Mapping[str, Any]) -> str:
    """The numbers among a step's figures, in one line."""
    numbers = {name: value for name, value in metrics.items() if type(value) in (int, float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()) or "-"
