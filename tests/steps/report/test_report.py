"""The page of a bundle: everything its manifest and reports know, and nothing but data inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, OutputError
from opentrans_cli.steps.analyze.analyze import analyze
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.report.report import report


def test_the_page_of_a_bundle_has_its_scores_layers_spectra_and_steps(tmp_path: Path) -> None:
    place = tmp_path / "subnet"
    prune("tiny", sparsity=0.5, out=place)
    bare = report(place, out=tmp_path / "bare.html")
    assert bare.bytes == bare.path.stat().st_size
    assert bare.path.read_text().count("<img ") == 1  # the layers; there are no alphas yet
    analyze(place)
    scored = evaluate(place, limit=2).report
    page = report(place, out=tmp_path / "page.html").path.read_text()
    assert page.count("<img ") == 2 and "Scores" not in bare.path.read_text()
    for figure in (f"<td>{100 * scored['miou']:.1f}</td>", "<td>shapes</td>", "50.0% of its 501 k prunable weights"):
        assert figure in page
    assert re.findall(r"<tr><td>(prune|analyze|eval)</td>", page) == ["prune", "analyze", "eval"]
    bundle = open_bundle(place)
    links = re.findall(r'<a href="([^"]+)">', page)
    assert [(tmp_path / link).resolve() for link in links] == [
        (place / entry.name).resolve() for entry in bundle.manifest.files
    ]
    shown = [entry for entry in scored["per_class"] if entry["iou"] is not None]
    assert all(f"<tr><td>{entry['name']}</td>" in page for entry in shown)


def test_what_is_no_bundle_and_no_demo_or_has_a_page_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        report(tmp_path, out=tmp_path / "page.html")
    (tmp_path / "report.json").write_text('{"rows": []}')
    with pytest.raises(BundleError, match="not a valid demo report"):
        report(tmp_path, out=tmp_path / "page.html")
    (tmp_path / "page.html").write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        report(tmp_path, out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "mine"
