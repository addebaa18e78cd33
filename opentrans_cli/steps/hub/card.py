"""The model card of a bundle for the Hub: README.md and its charts, made from manifest and reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentrans_cli.bundle.card.card import CardFacts, Unchecked, render_card
from opentrans_cli.bundle.card.licenses import License
from opentrans_cli.bundle.card.usage import Pretrained
from opentrans_cli.bundle.layout import ALPHA, ALPHA_CHART, README, SPARSITY_CHART
from opentrans_cli.bundle.manifest import LAYER_NAME
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import Bundle
from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import parse_json
from opentrans_cli.pictures.charts import alpha_chart, density_chart
from opentrans_cli.source_name import plain_source
from opentrans_cli.spectral.report import bundle_report

COST_REPORT = "reports/finetune.json"
MOST_LAYERS = 1000
"""Charts with more could not be read, and would be very large."""

_EVALUATION = re.compile(r"reports/eval-.*\.json")
_HUB_SOURCE = re.compile(r"hf://([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+)(@.*)?")


def card_files(
    bundle: Bundle,
    *,
    repo: str,
    license: License,
    dense: bool,
    patch: bool = False,
    revision: str | None = None,
    unchecked: Unchecked | None = None,
) -> dict[str, bytes]:
    """README.md and the charts it shows, name -> bytes; the same arguments always give the same bytes.

    repo: "org/name" on the Hub; dense, patch: whether the files that open_clip loads, and a sparse patch of the base,
    are beside the bundle; revision: tag or commit to which downloads are pinned; unchecked: why it did not have to pass
    the gate. Raises BundleError for a report that is damaged or matches no definition of `artifacts.schema.json`.
    """
    manifest = bundle.manifest
    charts = dict(_charts(bundle))
    base = _pretrained(manifest.base.source)
    facts = CardFacts(
        manifest=manifest,
        digest=bundle.digest,
        repo=repo,
        license=license,
        revision=revision,
        dense=dense,
        base=base,
        base_model=_base_model(manifest.base.source, base),
        evaluations=tuple(evaluations_of(bundle).values()),
        cost=cost_of(bundle),
        charts={title: name for title, (name, _) in charts.items()},
        patch=patch,
        unchecked=unchecked,
    )
    return {README: render_card(facts).encode(), **dict(charts.values())}


def evaluations_of(bundle: Bundle) -> dict[str, dict[str, Any]]:
    """The eval reports that the card shows, by file name. Raises BundleError for one that is damaged."""
    names = sorted(entry.name for entry in bundle.manifest.files if _EVALUATION.fullmatch(entry.name))
    return {name: _report(bundle, name, "eval_report") for name in names}


def cost_of(bundle: Bundle) -> dict[str, Any] | None:
    """The receipt of the last fine-tuning, None without one. Raises BundleError for one that is damaged."""
    return _report(bundle, COST_REPORT, "cost_receipt") if bundle.has(COST_REPORT) else None


def _report(bundle: Bundle, name: str, kind: str) -> dict[str, Any]:
    document = parse_json(bundle.read(name), name)
    try:
        check_document(document, kind)
    except BundleError as error:
        raise BundleError(f"{name}: {error}") from error
    report: dict[str, Any] = document
    return report


def _pretrained(source: str) -> Pretrained | None:
    # A source that cannot be a name of open_clip does not need open_clip to be loaded.
    source = plain_source(source)
    if source == "tiny" or not re.fullmatch(r"[A-Za-z0-9_-]+(:[A-Za-z0-9_-]+)?", source):
        return None
    from opentrans_cli.clip.source import published

    entry = published(source)
    return None if entry is None else Pretrained(entry.name, entry.tag, entry.repo)


def _base_model(source: str, base: Pretrained | None) -> str | None:
    """The base on the Hub, if the source or the table of open_clip names it."""
    found = _HUB_SOURCE.fullmatch(plain_source(source))
    if found:
        return found[1]
    return None if base is None else base.repo


def _charts(bundle: Bundle) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Title -> (file name, PNG)."""
    layers = [(layer.name, layer.kept, layer.total) for layer in bundle.manifest.layers]
    if len(layers) > MOST_LAYERS:
        return
    yield "Sparsity", (SPARSITY_CHART, _png(lambda path: density_chart(path, layers, title="Weights kept by layer")))
    report = bundle_report(bundle)
    # The charts would treat a name with dollar signs as a formula.
    if bundle.has(ALPHA) and not (report and all(LAYER_NAME.fullmatch(layer.name) for layer in report.layers)):
        raise BundleError(f"layers and alphas disagree: {ALPHA} in {str(bundle.path)!r}; run `opentrans analyze` again")
    if report is not None and len(report.layers) <= MOST_LAYERS:
        draw = partial(alpha_chart, layers=report.layers, median=report.median, title="Alpha by layer")
        yield "Alpha", (ALPHA_CHART, _png(draw))


def _png(draw: Callable[[Path], None]) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "chart.png"
        draw(path)
        return path.read_bytes()
