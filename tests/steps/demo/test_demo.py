"""The demo at a size of seconds: same code as the real one, so what it writes and how its rows hang together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import OutputError
from opentrans_cli.steps.demo.demo import FREEZING, TOWERS, DemoResult, DemoSize, demo
from opentrans_cli.steps.look.verify import verify

MICRO = DemoSize(
    images=32, score_images=16, steps_per_round=1, final_steps=2, batch_size=16, lr=1e-3, finetune_steps=2, scenes=3
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return demo(out=tmp_path_factory.mktemp("demo") / "out", size=MICRO, sparsity=0.5)


def test_the_report_is_the_result_and_fits_the_schema(result: DemoResult) -> None:
    document = json.loads((result.path / "report.json").read_text())
    assert document == json.loads(json.dumps(result.to_json()))
    check_document(document, "demo_report")
    assert [row["name"] for row in document["rows"]] == list(TOWERS)
    assert [row["name"] for row in document["finetune_rows"]] == list(FREEZING)


def test_every_bundle_of_the_demo_verifies(result: DemoResult) -> None:
    bundles = [path for path in result.path.iterdir() if path.is_dir()]
    assert len(bundles) == len(TOWERS) + len(TOWERS) + len(FREEZING) - 1  # the subnet with nothing frozen is in both
    assert all(verify(path).ok for path in bundles)


def test_the_distilled_twin_keeps_as_many_weights_as_the_subnet_in_every_layer(result: DemoResult) -> None:
    subnet, twin = (open_bundle(result.path / name) for name in ("subnet", "random_distilled"))
    counts = {layer.name: layer.kept for layer in subnet.manifest.layers}
    assert counts == {layer.name: layer.kept for layer in twin.manifest.layers}
    masks = subnet.masks(), twin.masks()
    assert any((masks[0][layer] != masks[1][layer]).any() for layer in counts)
    budgets = [open_bundle(result.path / name).manifest.steps[0].options for name in ("subnet", "random_distilled")]
    assert {key for key in budgets[0] if budgets[0][key] != budgets[1][key]} == {"random", "like"}


def test_rows_agree_with_their_bundles(result: DemoResult) -> None:
    for row in result.rows:
        bundle = open_bundle(result.path / row["name"])
        assert row["bundle_bytes"] == sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
        assert row["sparsity"] == pytest.approx(0.0 if row["name"] == "dense" else 0.5, abs=1e-5)
    kept = {row["name"]: row["params_kept"] for row in result.rows}
    removed = sum(layer.total - layer.kept for layer in open_bundle(result.path / "subnet").manifest.layers)
    assert kept["dense"] - kept["subnet"] == removed


def test_freezing_costs_less_and_the_full_row_is_the_subnet_row(result: DemoResult) -> None:
    cost = {row["name"]: row["training_macs"] for row in result.finetune_rows}
    assert all(cost[name] < cost["full"] for name in cost if name != "full")
    assert result.finetune_rows[0]["miou"] == result.rows[1]["miou"]


def test_the_pictures_are_there_to_look_at(result: DemoResult) -> None:
    for name in ("overview.png", "density.png", "alpha.png"):
        with Image.open(result.path / name) as picture:
            assert min(picture.size) > 300


def test_an_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--force"):
        demo(out=tmp_path, size=MICRO)
    assert not list(tmp_path.iterdir())
