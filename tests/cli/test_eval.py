"""eval: the report as JSON, where it goes, and whose classes count as seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
