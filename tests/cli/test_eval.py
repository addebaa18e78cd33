"""eval: the report as JSON, where it goes, and whose classes count as seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle


def test_json_is_the_report_of_the_contract_and_lies_in_the_bundle(run_cli: Any, segmentor: Path) -> None:
    result = run_cli("eval", segmentor, "--limit", 2, "--json")
    document = json.loads(result.stdout)
    check_document(document, "eval_report")
    assert (document["images"], document["classes"], document["framework"]) == (2, 70, "deeplabv3")
    bundle = open_bundle(segmentor)
    assert json.loads(bundle.read("reports/eval-shapes.json")) == document
    assert bundle.manifest.steps[-1].verb == "eval"


def test_with_out_the_report_is_a_file_and_the_bundle_stays_as_it_is(run_cli: Any, segmentor: Path, desk: Path) -> None:
    before = (segmentor / "manifest.json").read_bytes()
    result = run_cli("eval", segmentor, "--limit", 1, "--out", desk / "r.json", "--json")
    check_document(json.loads((desk / "r.json").read_text()), "eval_report")
    assert json.loads((desk / "r.json").read_text()) == json.loads(result.stdout)
    assert (segmentor / "manifest.json").read_bytes() == before


def test_a_source_without_a_segmentor_is_read_out_and_that_is_said(run_cli: Any, bundle: Path) -> None:
    for source in ("tiny", bundle):
        result = run_cli("eval", source, "--limit", 1, "--json")
        assert f"no segmentor in {source}" in result.stderr and "without training" in result.stderr
        document = json.loads(result.stdout)
        check_document(document, "eval_report")
        assert document["framework"] == "maskclip"


def test_pruned_weights_are_not_counted_as_kept(run_cli: Any, bundle: Path) -> None:
    dense = json.loads(run_cli("eval", "tiny", "--limit", 1, "--json").stdout)
    pruned = json.loads(run_cli("eval", bundle, "--limit", 1, "--json").stdout)
    manifest = open_bundle(bundle).manifest
    assert dense["params_kept"] == dense["params_dense"] == pruned["params_dense"]
    assert pruned["params_dense"] - pruned["params_kept"] == manifest.total - manifest.kept
    assert pruned["macs"] == dense["macs"] == dense["macs_kept"] > pruned["macs_kept"]


def test_classes_held_out_are_unseen_for_a_source_without_history(run_cli: Any, labelled_folder: Any) -> None:
    line = ("eval", "tiny", *labelled_folder.options, "--hold-out", "blue square", "--json")
    document = json.loads(run_cli(*line).stdout)
    assert {entry["name"]: entry["seen"] for entry in document["per_class"]} == {
        "grass": True,
        "red square": True,
        "blue square": False,
    }
    assert document["resolution"] == [64, 64] and document["images"] == 6


def test_unlabelled_maps_are_scored_as_nothing_not_as_zero(run_cli: Any, labelled_folder: Any) -> None:
    from PIL import Image

    for path in labelled_folder.labels.iterdir():
        Image.new("L", (64, 64), 255).save(path)
    result = run_cli("eval", "tiny", *labelled_folder.options, "--json")
    document = json.loads(result.stdout)
    assert document["miou"] is None and document["pixel_accuracy"] is None
    check_document(document, "eval_report")


def test_the_curve_is_a_table_and_a_report_in_the_bundle(
    run_cli: Any, nested_bundle: Callable[[str], Path], desk: Path
) -> None:
    bundle = shutil.copytree(nested_bundle("trained"), desk / "b")
    result = run_cli("eval", bundle, "--curve", "--limit", 1)
    assert result.stdout == f"{bundle}\n"
    assert all(sparsity in result.stderr for sparsity in ("0.2000", "0.5000", "0.8000"))
    report = json.loads(open_bundle(bundle).read("reports/curve-shapes.json"))
    document = json.loads(run_cli("eval", bundle, "--curve", "--limit", 1, "--json", "--quiet").stdout)
    check_document(document, "curve_report")
    assert document == report


def test_one_sparsity_of_a_bundle_is_scored_and_named(
    run_cli: Any, nested_bundle: Callable[[str], Path], desk: Path
) -> None:
    out = desk / "r.json"
    line = ("eval", nested_bundle("trained"), "--limit", 1, "--out", out, "--json")
    document = json.loads(run_cli(*line, "--at-sparsity", 0.5).stdout)
    check_document(document, "eval_report")
    whole = json.loads(run_cli(*line, "--force").stdout)
    assert document["at_sparsity"] == 0.5 and "at_sparsity" not in whole
    assert whole["params_kept"] < document["params_kept"] < document["params_dense"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--at-sparsity", 0.5, "--curve"), "one sparsity or all of them"),
        (("--at-sparsity", 0.7), "choose one of 0.2, 0.5, 0.8"),
    ],
)
def test_contradictory_and_missing_sparsities_are_wrong_usage(
    refused: Callable[..., str], nested_bundle: Callable[[str], Path], line: tuple[object, ...], message: str
) -> None:
    assert message in refused("eval", nested_bundle("trained"), "--limit", 1, *line, code=2)


def test_reports_are_compared_in_one_document_or_file(run_cli: Any, segmentor: Path, desk: Path) -> None:
    for name in ("a", "b"):
        run_cli("eval", segmentor, "--limit", 1, "--out", desk / f"{name}.json", "--quiet")
    sources = (desk / "a.json", desk / "b.json")
    document = json.loads(run_cli("eval", "--compare", *sources, "--json").stdout)
    check_document(document, "score_table")
    measured = json.loads((desk / "a.json").read_text())["miou"]
    assert [row["cells"]["shapes miou"]["value"] for row in document["rows"]] == [measured] * 2
    assert all(row["cells"]["shapes miou"]["best"] for row in document["rows"]) and document["notes"] == []
    result = run_cli("eval", "--compare", *sources, "--published", "--out", desk / "t.md", "--quiet")
    assert result.stdout == f"{desk / 't.md'}\n" and "| measured |" in (desk / "t.md").read_text()
    shown = run_cli("eval", *sources, "--compare").stdout
    assert "shapes" in shown and "ms/image" in shown and "*" in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("--compare",), "nothing to compare: no source is named"),
        (("--compare", "x", "--limit", 3), "a comparison reads reports and scores nothing: --limit; leave it out"),
        (("--compare", "x", "--curve"), "scores nothing: --curve; leave it out"),
        (("--compare", "x", "--checkpoint", "y"), "scores nothing: --checkpoint; leave it out"),
        (("--compare", "x", "--vocabulary", "y"), "scores nothing: --vocabulary; leave it out"),
        (("--compare", "x", "--device", "cpu"), "scores nothing: --device; leave it out"),
        (("--compare", "x", "--resume"), "scores nothing: --resume; leave it out"),
        (("--compare", "x", "--out", "t.html"), "no kind of table: --out t.html; end it in .md, .csv, .tex, .json"),
        (("x", "y"), "eval scores one segmentor: 2 sources; add --compare"),
        (("x", "--published"), "published rows stand beside a comparison: --published; add --compare"),
        ((), "a source, or --checkpoint FILE; give exactly one"),
    ],
)
def test_a_comparison_and_a_measurement_do_not_mix(
    refused: Callable[..., str], line: tuple[object, ...], message: str
) -> None:
    assert message in refused("eval", *line, code=2)
