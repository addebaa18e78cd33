"""analyze: the report as JSON, and the choice of layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle


def frozen(document: dict[str, Any]) -> list[str]:
    return [layer["name"] for layer in document["layers"] if layer["decision"] == "frozen"]


def test_json_is_the_report_of_the_contract(run_cli: Any, bundle: Path) -> None:
    document = json.loads(run_cli("analyze", bundle, "--json").stdout)
    check_document(document, "analyze_report")
    layers = {layer.name for layer in open_bundle(bundle).manifest.layers}
    assert {layer["name"] for layer in document["layers"]} == layers | {"conv1"}


def test_a_bundle_and_its_dense_source_are_told_apart(run_cli: Any, bundle: Path) -> None:
    dense = json.loads(run_cli("analyze", "tiny", "--json").stdout)
    pruned = json.loads(run_cli("analyze", bundle, "--json").stdout)
    check_document(dense, "analyze_report")
    alphas = [{layer["name"]: layer["alpha"] for layer in document["layers"]} for document in (dense, pruned)]
    assert alphas[0].keys() == alphas[1].keys()
    assert alphas[0]["conv1"] == alphas[1]["conv1"] and alphas[0] != alphas[1]


def test_layers_with_the_smaller_alphas_are_frozen(run_cli: Any, bundle: Path) -> None:
    document = json.loads(run_cli("analyze", bundle, "--json").stdout)
    chosen = frozen(document)
    below = [layer["name"] for layer in document["layers"] if layer["alpha"] < document["median_alpha"]]
    assert chosen == below and len(chosen) == len(document["layers"]) // 2


@pytest.mark.parametrize(("mode", "count"), [("heavy", 4), ("light", 4), ("random", 4), ("none", 0)])
def test_mode_and_ratio_decide_how_many_are_frozen(mode: str, count: int, run_cli: Any, bundle: Path) -> None:
    line = ("analyze", bundle, "--freeze", mode, "--freeze-ratio", 0.25, "--json")
    chosen = frozen(json.loads(run_cli(*line).stdout))
    assert len(chosen) == count and frozen(json.loads(run_cli(*line).stdout)) == chosen


def test_a_very_sparse_bundle_has_a_valid_report(run_cli: Any, desk: Path) -> None:
    """Layers that lost nearly everything have no power law; the report says so in JSON, without NaN."""
    run_cli("prune", "tiny", "-s", 0.9999, "-o", desk / "b")
    result = run_cli("analyze", desk / "b", "--json")
    assert result.exit_code == 0
    check_document(json.loads(result.stdout), "analyze_report")
