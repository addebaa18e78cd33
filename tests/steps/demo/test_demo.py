"""The demo at a size of seconds: same code as the real one, so what it writes and how its rows hang together."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import OutputError, RunStopped, TrainingError
from opentrans_cli.reporter import SILENT, Silent
from opentrans_cli.steps.demo.demo import TOWERS, DemoResult, DemoSize, demo
from opentrans_cli.steps.demo.state import DemoState
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.report.report import report

MICRO = DemoSize(
    rate=0.3,
    images=32,
    score_images=16,
    steps_per_round=1,
    final_steps=2,
    batch_size=16,
    lr=1e-3,
    width=16,
    crop=32,
    crops=6,
    finetune_steps=2,
    finetune_batch=4,
    finetune_lr=1e-3,
    freezing=("trunk", "alpha"),
    scenes=2,
)
NO_PROCESS = 4_194_305  # above the highest id of Linux
ROWS: list[dict[str, Any]] = []
"""The rows that the demo told as they came."""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return demo(out=tmp_path_factory.mktemp("demo") / "out", size=MICRO, sparsity=0.5, on_row=ROWS.append)


def test_the_report_is_the_result_and_fits_the_schema(result: DemoResult) -> None:
    document = json.loads((result.path / "report.json").read_text())
    assert document == json.loads(json.dumps(result.to_json()))
    check_document(document, "demo_report")
    assert [row["name"] for row in document["rows"]] == list(TOWERS)
    assert [row["name"] for row in document["finetune_rows"]] == list(MICRO.freezing)
    assert [*result.rows, *result.finetune_rows[1:]] == ROWS  # the first way of freezing is the subnet's own row


def test_every_bundle_of_the_demo_verifies(result: DemoResult) -> None:
    bundles = [path for path in result.path.iterdir() if path.is_dir() and path.name != "scenes"]
    assert len(bundles) == 3 * len(TOWERS) + len(MICRO.freezing) - 1  # pruned, with a new head, fine-tuned
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


def test_freezing_costs_less_and_the_first_way_is_the_subnet_row(result: DemoResult) -> None:
    cost = {row["name"]: row["training_macs"] for row in result.finetune_rows}
    assert cost["trunk"] < cost["alpha"] < result.finetune_rows[0]["full_training_macs"]
    assert result.finetune_rows[0]["miou"] == result.rows[1]["miou"]


def test_the_pictures_are_there_to_look_at(result: DemoResult) -> None:
    for name in ("overview.png", "density.png", "alpha.png", "esd.png"):
        with Image.open(result.path / name) as picture:
            assert min(picture.size) > 300
    kinds = ("image", "truth", *TOWERS)
    scenes = {f"{number}-{kind}.png" for number in range(MICRO.scenes) for kind in kinds}
    assert {path.name for path in (result.path / "scenes").iterdir()} == scenes


def test_the_page_shows_every_scene_beside_its_overlays_and_every_figure(result: DemoResult, tmp_path: Path) -> None:
    page = (result.path / "report.html").read_text()
    assert page.index(">scene<") < page.index(">ground truth<") < page.index(">dense<")
    for row in (*result.rows, *result.finetune_rows):
        assert f">{100 * row['miou']:.1f}<" in page
    for layer in open_bundle(result.path / "subnet").manifest.layers:
        assert f'<th scope="row">{layer.name}</th>' in page
    elsewhere = report(result.path, out=tmp_path / "again.html").path
    for place, text in ((result.path, page), (tmp_path, elsewhere.read_text())):
        links = re.findall(r'href="([^"]+)"', text)
        assert len(links) > len(TOWERS) and all((place / link).exists() for link in links)
        for path in (result.path / "scenes").iterdir():
            assert os.path.relpath(path, place) in links


class Signalled(Silent):
    """A reporter under which SIGTERM comes in the first unit of a bar."""

    def __init__(self, bar: str) -> None:
        self.wanted = bar

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        yield lambda status: signal.raise_signal(signal.SIGTERM) if title == self.wanted else None


def leave_halves(out: Path) -> None:
    """What a process that was killed was writing: a bundle and a file."""
    (out / f".dense-transferred.{NO_PROCESS}-0123abcd.tmp").mkdir()
    (out / f".report.json.{NO_PROCESS}-0123abcd.tmp").write_text("half")


@pytest.mark.skipif(os.name == "nt", reason="there is no asking whether a process runs")
def test_an_interrupted_demo_goes_on_to_the_same_bundles_and_figures(result: DemoResult, tmp_path: Path) -> None:
    out, told = tmp_path / "out", list[str | None]()
    for bar in (
        "2 of 6 · subnet · distilling",
        "2 of 6 · subnet · scoring",
        "5 of 6 · subnet, frozen: alpha · fine-tuning",
    ):
        with pytest.raises(RunStopped) as stopped:
            demo(out=out, size=MICRO, sparsity=0.5, resume=True, reporter=Signalled(bar))
        told.append(stopped.value.after)
    assert told == ["1 of 6 parts", "1 of 6 parts", "4 of 6 parts"]
    with pytest.raises(OutputError, match="a state of 4 of 6 parts lies at"):
        demo(out=out, size=MICRO, sparsity=0.5)
    with pytest.raises(TrainingError, match=r"sparsity was 0\.5, now 0\.6"):
        demo(out=out, size=MICRO, sparsity=0.6, resume=True)
    leave_halves(out)
    rows: list[dict[str, Any]] = []
    resumed = demo(out=out, size=MICRO, sparsity=0.5, resume=True, on_row=rows.append)
    assert resumed.rows == result.rows and [row["name"] for row in rows] == ["alpha"]
    untimed = [[{**row, "seconds_per_step": 0} for row in each.finetune_rows] for each in (resumed, result)]
    assert untimed[0] == untimed[1]
    for bundle in [path for path in result.path.iterdir() if (path / "manifest.json").exists()]:
        whole, again = open_bundle(bundle), open_bundle(out / bundle.name)
        assert again.digest == whole.digest and len(again.manifest.steps) == len(whole.manifest.steps)
    assert {path.name for path in out.iterdir()} == {path.name for path in result.path.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(os.name == "nt", reason="there is no asking whether a process runs")
def test_a_demo_that_starts_anew_removes_what_a_killed_one_was_writing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    leave_halves(out)
    DemoState(out, identity={}, parts=1, resume=False, reporter=SILENT)
    assert not list(out.iterdir())


def test_an_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--force"):
        demo(out=tmp_path, size=MICRO)
    assert not list(tmp_path.iterdir())
