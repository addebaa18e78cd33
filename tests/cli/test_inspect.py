"""inspect: a bundle at a glance, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from opentrans_cli.bundle.store import open_bundle


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
