"""The curve: each point is what eval says of that round, and what a bundle of that round weighs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import OptionError, OutputError
from opentrans_cli.files.tensorfile import read_tensors
from opentrans_cli.reporter import Silent
from opentrans_cli.steps.eval.curve import curve
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.transfer.transfer import transfer

Nested = Callable[[str], Path]
DATA = DatasetOptions(split="val", limit=1)
SCORES = ("miou", "miou_seen", "miou_unseen")


@pytest.mark.parametrize("kind", ["trained", "untrained"])
def test_every_point_is_what_eval_says_of_that_round(nested_bundle: Nested, tmp_path: Path, kind: str) -> None:
    bundle = Path(shutil.copytree(nested_bundle(kind), tmp_path / "b"))
    report = curve(str(bundle), **vars(DATA), device="cpu").report
    check_document(report, "curve_report")
    assert [round(point["sparsity"], 3) for point in report["points"]] == [0, 0.2, 0.5, 0.8]
    dense = evaluate("tiny", **vars(DATA), device="cpu").report
    assert {name: report["points"][0][name] for name in SCORES} == {name: dense[name] for name in SCORES}
    for point in report["points"][1:3]:
        single = evaluate(
            str(bundle), **vars(DATA), at_sparsity=point["sparsity"], out=tmp_path / "r.json", force=True, device="cpu"
        ).report
        assert {name: point[name] for name in SCORES} == {name: single[name] for name in SCORES}
    assert len({point["miou"] for point in report["points"]}) > 1


def test_the_size_of_a_point_is_that_of_its_tensors_in_a_bundle(nested_bundle: Nested, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    points = curve(str(bundle), **vars(DATA), device="cpu").report["points"]
    assert len(points) == 4
    for point in points[2:]:
        transfer(bundle, to="maskclip", out=tmp_path / "t", at_sparsity=point["sparsity"], force=True)
        files = [read_tensors(tmp_path / "t" / f"{name}.safetensors") for name in ("mask", "weights")]
        assert point["bytes"] == sum(array.nbytes for file in files for array in file.values())


def test_report_and_chart_are_one_measurement_of_the_bundle(nested_bundle: Nested, tmp_path: Path) -> None:
    path = Path(shutil.copytree(nested_bundle("trained"), tmp_path / "b"))
    before = open_bundle(path)
    result = curve(str(path), **vars(DATA), device="cpu")
    after = open_bundle(path)
    assert result.path == path and after.digest == before.digest and verify(path).ok
    assert json.loads(after.read("reports/curve-shapes.json")) == result.report
    assert after.read("reports/curve-shapes.png").startswith(b"\x89PNG")
    assert [step.verb for step in after.manifest.steps] == ["prune", "eval"]


def test_rounds_of_masks_alone_are_left_out_aloud(nested_bundle: Nested, tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    report = curve(
        str(nested_bundle("masks")), **vars(DATA), out=tmp_path / "c.json", device="cpu", reporter=Listener()
    ).report
    assert [point["round"] for point in report["points"]] == [0, 3]
    assert [line for line in said if "only their masks" in line] == [
        "left out, only their masks are there: 0.2000, 0.5000"
    ]


def test_with_out_report_and_chart_are_files_that_need_force_to_be_replaced(
    nested_bundle: Nested, tmp_path: Path
) -> None:
    source, out = nested_bundle("untrained"), tmp_path / "c.json"
    manifest = (source / "manifest.json").read_bytes()
    (tmp_path / "c.png").write_text("mine")
    with pytest.raises(OutputError, match=r"already exists: .*c\.png"):
        curve(str(source), **vars(DATA), out=out, device="cpu")
    assert not out.exists() and (tmp_path / "c.png").read_text() == "mine"
    result = curve(str(source), **vars(DATA), out=out, force=True, device="cpu")
    assert result.path == out and json.loads(out.read_text()) == result.report
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert (source / "manifest.json").read_bytes() == manifest


def test_only_a_bundle_has_a_curve() -> None:
    with pytest.raises(OptionError, match="only a bundle has rounds to draw: tiny"):
        curve("tiny", **vars(DATA), device="cpu")
