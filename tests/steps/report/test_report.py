"""Pages of bundles, of every kind of document, and of whole folders; and what is refused."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from sample_documents import smallest_document

from opentrans_cli.bundle.schema import kinds
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.errors import BundleError, OptionError, OutputError
from opentrans_cli.spectral.report import bundle_report
from opentrans_cli.steps.report.exhibit import BUNDLE, LOG
from opentrans_cli.steps.report.report import report

from .conftest import CLASSES, FOREIGN, curve, evaluation, log_lines


def cells(page: str) -> list[list[str]]:
    """By row of any table the texts of its cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def headings(page: str) -> list[str]:
    return [unescape(text) for text in re.findall(r"<h[1-6]>(.*?)</h[1-6]>", page)]


def test_the_page_of_a_bundle_has_its_scores_layers_spectra_and_steps(tmp_path: Path, subnet: Path) -> None:
    result = report(subnet, out=tmp_path / "page.html")
    assert result.bytes == result.path.stat().st_size and result.left_out == ()
    page = result.path.read_text()
    rows, bundle = cells(page), open_bundle(subnet)
    assert ["eval-photos", "photos", "52.1", "53.1", "50.0", "91.4", "20", "1.46 M", "0"] in rows
    alphas = bundle_report(bundle)
    assert alphas is not None
    by_layer = {layer.name: layer for layer in alphas.layers}
    for layer in bundle.manifest.layers:
        share, alpha = f"{100 * layer.kept / layer.total:.1f}", f"{by_layer[layer.name].alpha:.2f}"
        row = next(row for row in rows if row[0] == layer.name)
        assert row[1:4] == [share, f"{layer.kept:,}", f"{layer.total:,}"] and row[5] == alpha
    assert page.count('aria-label="spectrum of ') == len(alphas.layers)
    steps = rows[rows.index(["step", "asked for", "figures"]) + 1 :]
    assert [row[0] for row in steps[:5]] == ["base", "prune", "analyze", "eval", "eval"]
    links = [unescape(link) for link in re.findall(r'<a href="([^"#]+)">', page)]
    assert [(tmp_path / link).resolve() for link in links] == [
        (subnet / entry.name).resolve() for entry in bundle.manifest.files
    ]


def test_every_score_and_class_of_an_evaluation_is_told(tmp_path: Path) -> None:
    more = {"fwiou": 0.877, "macc": 0.623}
    per_class = [{**row, "accuracy": 0.75} for row in evaluation()["per_class"]]
    (tmp_path / "eval.json").write_text(json.dumps(evaluation(per_class=per_class, **more)))
    page = report(tmp_path / "eval.json", out=tmp_path / "page.html").path.read_text()
    rows = cells(page)
    assert rows[0][1:7] == ["mIoU, %", "seen, %", "unseen, %", "fwIoU, %", "mACC, %", "pACC, %"]
    assert rows[1][1:7] == ["52.1", "53.1", "50.0", "87.7", "62.3", "91.4"]
    assert [row for row in rows if row[0] in CLASSES] == [
        ["grass", "81.2", "75.0", "yes"],
        ["sky", "50.0", "75.0", "no"],
        [FOREIGN, "25.0", "75.0", "yes"],
    ]
    assert "In no image: cat." in page and FOREIGN not in page


def quality(share: float, **more: Any) -> dict[str, Any]:
    return {"pq": share, "sq": 2 * share, "rq": None, "classes": 2, **more}


def test_segments_and_objects_are_told_in_fractions_and_in_percent(tmp_path: Path) -> None:
    """Reports of segmentors have fractions and lists, those of predictions percents and mappings."""
    counts = {"true_positives": 1234, "false_positives": 5, "false_negatives": 6}
    sizes = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")

    def panoptic(most: float) -> dict[str, Any]:
        groups = {"things": quality(0.3 * most), "stuff": quality(0.2 * most)}
        entry = {"thing": True, **quality(0.1 * most), **counts}
        return {**quality(0.25 * most), **groups, "per_class": {FOREIGN: entry}}

    def instance(most: float) -> dict[str, Any]:
        return {
            **{name: place * most / 10 for place, name in enumerate(sizes)},
            "per_class": {"cat": {"ap": 0.4 * most}},
        }

    def listed(scores: dict[str, Any]) -> dict[str, Any]:
        return {**scores, "per_class": [{"name": name, **entry} for name, entry in scores["per_class"].items()]}

    documents = {
        "own.json": evaluation(panoptic=listed(panoptic(1)), instance=listed(instance(1))),
        "segments.json": {"task": "panoptic", "images": 7, **panoptic(100)},
        "objects.json": {"task": "instance", "images": 7, **instance(100)},
    }
    rows = {}
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
        rows[name] = cells(report(tmp_path / name, out=tmp_path / f"{name}.html").path.read_text())
    expected = [
        ["all", "25.0", "50.0", "-", "2"],
        ["things", "30.0", "60.0", "-", "2"],
        ["stuff", "20.0", "40.0", "-", "2"],
        [FOREIGN, "10.0", "20.0", "-", "1,234", "5", "6", "thing"],
    ]
    objects = [["AP50", "10.0"], ["APl", "50.0"], ["cat", "40.0"]]
    assert all(row in rows["own.json"] for row in expected + objects)
    assert all(row in rows["segments.json"] for row in expected)
    assert all(row in rows["objects.json"] for row in objects)
    assert rows["own.json"][1][5:7] == ["25.0", "0.0"]


def test_a_curve_is_told_point_by_point_and_drawn_where_there_is_something(tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text(json.dumps(curve()))
    page = report(tmp_path / "curve.json", out=tmp_path / "page.html").path.read_text()
    assert [row[:4] for row in cells(page)[1:4]] == [
        ["0.0", "51.0", "51.0", "-"],
        ["50.0", "49.0", "49.0", "-"],
        ["90.0", "31.3", "31.3", "20.0"],
    ]
    assert page.count('role="img"') == 2


def test_a_log_is_drawn_even_while_its_last_line_is_being_written(tmp_path: Path) -> None:
    log = tmp_path / "a.log.jsonl"
    log.write_text(log_lines(500))
    page = report(log, out=tmp_path / "page.html").path.read_text()
    rows = cells(page)
    assert ["1", "2", "1", "1", "0.01"] in rows and ["500", "1.002", "0.002", "1", "2e-05"] in rows
    assert "12 of 500 steps" in page and "the mean of 3 steps" in page
    assert ["500", "25.0", "25.0", "-"] in rows


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind not in (BUNDLE, LOG)])
def test_every_kind_of_document_has_a_page_with_the_least_fields(tmp_path: Path, kind: str) -> None:
    document: dict[str, Any] = smallest_document(kind)
    (tmp_path / "it.json").write_text(json.dumps(document))
    result = report(tmp_path / "it.json", out=tmp_path / "page.html")
    assert [shown["kind"] for shown in result.shown] == [kind]
    assert result.path.read_text().count("<h1>") == 1


def test_a_folder_of_runs_is_one_page_with_what_it_holds_side_by_side(tmp_path: Path, runs: Path) -> None:
    result = report(runs, out=tmp_path / "page.html")
    page = result.path.read_text()
    shown = [(each["kind"], each["name"]) for each in result.shown]
    assert shown[:2] == [("manifest", "deeper/twin"), ("manifest", "subnet")]
    assert set(shown[2:]) == {
        ("eval_report", "eval.json"),
        ("curve_report", "curve.json"),
        ("run_log_line", "alone.log.jsonl"),
        ("cost_receipt", "receipt.json"),
        ("transfer_receipt", "transferred.json"),
        ("segment_report", "labelled"),
        ("segment_report", "labelled-too"),
    }
    assert [re.split(r"[/ ]", fault.partition(str(runs) + "/")[2])[0].rstrip("'\",:") for fault in result.left_out] == [
        "half.json",
        "wrong.json",
        "broken",
    ]
    for heading in ("Bundles", "Scores", "mIoU by sparsity on photos", "The same pictures", "Left out", "Pictures"):
        assert heading in headings(page), heading
    rows = cells(page)
    assert [row[:3] for row in rows if row[0] in ("subnet", "deeper/twin") and len(row) > 8][:2] == [
        ["deeper/twin", "50.0", "52.1"],
        ["subnet", "50.0", "52.1"],
    ]
    assert ["eval.json", "photos", "43.2"] in [row[:3] for row in rows]
    assert "eval.json on photos: the report says no words, prompts and rules" in page
    anchors = re.findall(r'href="#([^"]+)"', page)
    assert len(anchors) > len(shown) and all(f'id="{anchor}"' in page for anchor in anchors)
    assert page.index("0-photo.png<") < page.index("0-truth.png<") < page.index("0-subnet.png<")


def test_paths_of_one_name_are_told_apart(tmp_path: Path, subnet: Path) -> None:
    for name in ("a", "b"):
        copytree(subnet, tmp_path / name / "subnet")
    result = report([tmp_path / "a" / "subnet", tmp_path / "b" / "subnet"], out=tmp_path / "page.html")
    assert [each["name"] for each in result.shown] == [f"{tmp_path}/a/subnet", f"{tmp_path}/b/subnet"]


def test_what_can_not_be_told_is_refused_before_anything_is_written(tmp_path: Path, subnet: Path) -> None:
    out = tmp_path / "page.html"
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "coco.json").write_text('{"annotations": []}')
    (tmp_path / "wrong.json").write_text(json.dumps(evaluation(miou="much")))
    (tmp_path / "half.json").write_text("{")
    (tmp_path / "wrong.log.jsonl").write_text('{"event": "start", "step": 0}\nno\n{"event": "end", "step": 1}\n')
    (tmp_path / "empty.log.jsonl").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "manifest.json").write_text("{}")
    for name, reason in {
        "none": "no such file or folder: .*none; check the path",
        "empty": "nothing to report on in the folder: .*; give a bundle",
        "photo.png": "not a report: .*photo.png; give a bundle",
        "coco.json": "JSON of another kind: .*coco.json",
        "wrong.json": "wrong.json is not a valid eval report: at 'miou'",
        "half.json": "not readable as JSON: .*half.json",
        "wrong.log.jsonl": "not the log of a run: .*wrong.log.jsonl, line 2",
        "empty.log.jsonl": "the log is empty: .*empty.log.jsonl",
        "damaged": "not the manifest of a bundle",
        "damaged/manifest.json": "a manifest without its bundle|JSON of another kind",
    }.items():
        with pytest.raises(BundleError, match=reason) as raised:
            report(tmp_path / name, out=out)
        assert "\n" not in str(raised.value)
    with pytest.raises(OptionError, match="given twice"):
        report([subnet, f"{subnet}/"], out=out)
    with pytest.raises(OptionError, match="nothing to report on"):
        report([], out=out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(OutputError, match="--force"):
        report(subnet, out=out)
    assert out.read_text() == "mine"
