"""inspect: a bundle at a glance, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.rounds import available
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.cli.inspect import _rounds


def test_json_agrees_with_the_manifest(run_cli: Any, tiny_segmentor: Path) -> None:
    document = json.loads(run_cli("inspect", tiny_segmentor, "--json").stdout)
    bundle = open_bundle(tiny_segmentor)
    assert document["digest"] == bundle.digest and document["source"] == "tiny"
    assert (document["kept"], document["total"]) == (bundle.manifest.kept, bundle.manifest.total)
    assert document["framework"] == "deeplabv3" and document["steps"] == ["prune", "finetune"]
    assert document["size_bytes"] == sum(path.stat().st_size for path in tiny_segmentor.rglob("*") if path.is_file())


def test_the_table_names_every_layer_and_file(run_cli: Any, tiny_segmentor: Path) -> None:
    shown = run_cli("inspect", tiny_segmentor).stdout
    manifest = open_bundle(tiny_segmentor).manifest
    for name in [*(layer.name for layer in manifest.layers), *(entry.name for entry in manifest.files)]:
        assert name in shown
    assert "prune > finetune" in shown


def test_what_is_no_bundle_is_told_in_one_line(run_cli: Any, desk: Path) -> None:
    result = run_cli("inspect", desk)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"opentrans: error: not a bundle: '{desk}'") and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "line", "legend"),
    [
        ("trained", "0.2000  0.5000  0.8000", ""),
        ("masks", "0.2000m 0.5000m 0.8000", "m: masks alone"),
        ("untrained", "0.2000b 0.5000b 0.8000", "b: weights of the base"),
        ("bare", "0.2000b 0.5000b 0.8000b", "b: weights of the base"),
    ],
)
def test_the_table_names_the_sparsities_that_can_be_taken_out(
    run_cli: Any, nested_bundle: Callable[[str], Path], kind: str, line: str, legend: str
) -> None:
    shown = run_cli("inspect", nested_bundle(kind)).stdout
    assert line in shown and legend in shown
    at = run_cli("inspect", nested_bundle(kind), "--at-sparsity", 0.5).stdout
    assert "0.5000 unstructured" in at and line in at


def test_22_rounds_fit_in_80_columns(nested_bundle: Callable[[str], Path]) -> None:
    info = available(open_bundle(nested_bundle("masks")))[0]
    lines = _rounds([replace(info, sparsity=1 - 0.9**n) for n in range(1, 23)]).splitlines()
    assert len(lines) == 5 and max(map(len, lines)) <= 80 - len("weights kept  ")
    assert lines[-2].split()[-1] == "0.9015m"


def test_json_has_the_rounds(run_cli: Any, nested_bundle: Callable[[str], Path]) -> None:
    document = json.loads(run_cli("inspect", nested_bundle("masks"), "--at-sparsity", 0.5, "--json").stdout)
    assert [(entry["round"], entry["weights"], entry["last"]) for entry in document["rounds"]] == [
        (1, None, False),
        (2, None, False),
        (3, "bundle", True),
    ]
    assert document["at_sparsity"] == 0.5 and document["kept"] == document["rounds"][1]["kept"]
