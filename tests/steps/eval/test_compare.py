"""eval --compare: which rows and columns there are, what is marked as best, and what is said where protocols differ."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import opentrans_cli as ot
from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import add_file, open_bundle
from opentrans_cli.cli.eval_compare import show_comparison
from opentrans_cli.errors import BundleError, DataError, OptionError
from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.eval.compare import compare
from opentrans_cli.steps.eval.published_scores import published_scores
from opentrans_cli.steps.eval.score_table import differences, where_protocols_differ
from opentrans_cli.steps.step_record import step_record

PROTOCOL = {
    "classes": [["sky"], ["sea", "ocean"]],
    "classes_sha256": "a" * 64,
    "words_from": {"kind": "data set", "file": None, "sha256": None},
    "templates": ["a {}"],
    "templates_sha256": "b" * 64,
    "synonyms": "maximum",
    "ignored_ids": [255],
    "absent": "exclude",
    "resolution": None,
    "split": "val",
    "images": 50,
    "data": "sha256:1",
    "seen_from": "data set",
}


_SHARES = {"pq": 0.3, "sq": 0.8, "rq": 0.4, "classes": 2}
QUALITY = {**_SHARES, "things": _SHARES, "stuff": _SHARES, "per_class": []}
PRECISION = {**dict.fromkeys(("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"), 0.2), "per_class": []}


def evaluated(
    dataset: str, miou: float, *, protocol: Mapping[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """A sound report of eval; `protocol` are changes of the usual one."""
    names = ("sky", "sea")
    report = {
        "framework": "maskclip",
        "dataset": dataset,
        "images": 50,
        "classes": 2,
        **dict.fromkeys(("miou", "miou_seen", "miou_unseen", "pixel_accuracy"), miou),
        "per_class": [{"name": name, "iou": miou, "seen": True} for name in names],
        "params_dense": 2_000_000,
        "params_kept": 1_500_000,
        "macs": 3_000_000_000,
        "macs_kept": 2_000_000_000,
        "seconds_per_image": 0.125,
        "resolution": [480, 640],
        "environment": {"device": "cpu"},
        "data": "sha256:1",
        "protocol": {**PROTOCOL, **(protocol or {})},
        **changes,
    }
    check_document(report, "eval_report")
    return report


Saved = Callable[..., Path]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Writes a report as the file NAME.json and gives its path."""

    def write(name: str, report: Mapping[str, Any]) -> Path:
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(json_bytes(report))
        return path

    return write


def test_data_sets_are_columns_in_the_order_of_the_paper_and_others_come_last(saved: Saved, tmp_path: Path) -> None:
    for dataset in ("shapes", "context-459", "voc-21", "coco", "ade20k-847", "cityscapes"):
        saved(f"runs/{dataset}", evaluated(dataset, 0.25))
    table = compare(tmp_path / "runs").table
    titles = [column.title for column in table.columns]
    assert titles == ["COCO", "Cityscapes", "A-847", "PC-459", "shapes", "PAS-21"]
    (row,) = table.rows  # all are of one segmentor
    assert row.name == "runs" and {cell.value for cell in row.cells.values()} == {0.25}
    assert (row.params_kept, row.macs, row.resolution, row.seconds_per_image, row.device) == (
        1_500_000,
        3_000_000_000,
        (480, 640),
        0.125,
        "cpu",
    )


def test_scores_of_segments_and_objects_are_columns_where_there_are_any(saved: Saved) -> None:
    both = evaluated("coco", 0.5, panoptic=QUALITY, instance=PRECISION)
    table = compare([saved("a", both), saved("b", evaluated("coco", 0.4, panoptic=QUALITY))]).table
    assert [column.key for column in table.columns] == ["coco miou", "coco pq", "coco ap"]
    assert {key: (cell.value, cell.best) for key, cell in table.rows[0].cells.items()} == {
        "coco miou": (0.5, True),
        "coco pq": (0.3, True),
        "coco ap": (0.2, False),  # nothing to be better than
    }
    assert table.rows[1].cells.keys() == {"coco miou", "coco pq"}


def test_own_folders_of_other_classes_are_columns_of_their_own(saved: Saved) -> None:
    three = [{"name": name, "iou": 0.5, "seen": True} for name in ("sky", "sea", "sand")]
    first = saved("a", evaluated("folder", 0.5))
    second = saved("b", evaluated("folder", 0.7, per_class=three))
    table = compare([first, second]).table
    assert [column.title for column in table.columns] == ["folder (2 classes)", "folder 2 (3 classes)"]
    assert [len(row.cells) for row in table.rows] == [1, 1]


def test_the_best_is_marked_among_those_that_agree(saved: Saved) -> None:
    reports = {
        "a": evaluated("coco", 0.4),
        "b": evaluated("coco", 0.5),
        "c": evaluated("coco", 0.9, protocol={"absent": "zero"}),
    }
    sources = [saved(name, report) for name, report in reports.items()]
    table = compare(sources).table
    cells = [row.cells["coco miou"] for row in table.rows]
    assert [cell.best for cell in cells] == [False, True, False]
    assert [cell.notes for cell in cells] == [(), (), ("a",)]
    assert table.notes == (("a", "absent classes count as 0, unlike a"),)
    alone = compare([sources[0], sources[2]]).table  # nothing agrees with anything
    assert not any(row.cells["coco miou"].best for row in alone.rows)
    equal = compare([sources[1], saved("twin", reports["b"])]).table
    assert [row.cells["coco miou"].best for row in equal.rows] == [True, True]


ASPECTS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"classes_sha256": "c" * 64}, "words of SHA-256 cccccccc"),
    ({"templates": ["a {}", "the {}"], "templates_sha256": "d" * 64}, "2 prompts of SHA-256 dddddddd"),
    ({"templates": None, "templates_sha256": None, "synonyms": None}, "no prompts; no words are read"),
    (
        {
            "templates": None,
            "templates_sha256": None,
            "words_from": {"kind": "vocabulary pack", "file": "p.safetensors", "sha256": "e" * 64},
        },
        "prompts of the pack p.safetensors (eeeeeeee), which does not name them",
    ),
    ({"ignored_ids": [0, 255]}, "ignored ids 0, 255"),
    ({"absent": "zero"}, "absent classes count as 0"),
    ({"resolution": {"short": 800, "long": 1333}}, "short side 800, long one at most 1333"),
    ({"split": "train"}, "split train"),
)


@pytest.mark.parametrize(("change", "told"), ASPECTS)
def test_every_point_of_a_protocol_is_told_where_it_differs(change: dict[str, Any], told: str) -> None:
    usual, other = evaluated("coco", 0.5), evaluated("coco", 0.5, protocol=change)
    assert "; ".join(differences(other, usual)) == told
    assert differences(usual, other) and differences(other, other) == []


def test_what_does_not_decide_a_figure_is_no_difference() -> None:
    origin = {"kind": "class file", "file": "same.txt", "sha256": "f" * 64}
    other = evaluated("coco", 0.6, protocol={"words_from": origin, "seen_from": "class file"}, environment={})
    assert differences(other, evaluated("coco", 0.5)) == []


def test_other_pictures_and_reports_of_older_versions_are_told(saved: Saved) -> None:
    fewer = evaluated("coco", 0.8, images=49)
    moved = evaluated("coco", 0.8, data="sha256:2")
    old = {name: value for name, value in evaluated("coco", 0.9).items() if name != "protocol"}
    older = {**old, "per_class": [{"name": name, "iou": 0.5, "seen": True} for name in ("sky", "sand")]}
    named = {"old": old, "usual": evaluated("coco", 0.5), "fewer": fewer, "moved": moved, "older": older}
    table = compare([saved(name, report) for name, report in named.items()]).table
    texts = dict(table.notes)
    told = {row.name: [texts[letter] for letter in row.cells["coco miou"].notes] for row in table.rows}
    no_protocol = "the report says no words, prompts and rules: it is from an older version, run eval again"
    assert told == {
        "old": [no_protocol],
        "usual": [],
        "fewer": ["49 images, unlike usual"],
        "moved": ["other images or label maps, unlike usual"],
        "older": ["other classes, unlike usual", no_protocol],
    }
    assert not any(row.cells["coco miou"].best for row in table.rows)


def test_lines_for_a_page_name_only_what_cannot_be_compared_with_another() -> None:
    named = [
        ("a", evaluated("coco", 0.5)),
        ("b", evaluated("coco", 0.5, protocol={"absent": "zero", "split": "train"})),
        ("c", evaluated("coco", 0.6)),
        ("d", evaluated("shapes", 0.6, protocol={"absent": "zero"})),
    ]
    assert where_protocols_differ(named) == ["b on coco: absent classes count as 0, unlike a; split train, unlike a"]


def with_reports(bundle: Path, out: Path, *reports: Mapping[str, Any]) -> Path:
    shutil.copytree(bundle, out)
    for report in reports:
        at = f"-at-{report['at_sparsity']:.4f}" if "at_sparsity" in report else ""
        step = step_record("eval", {}, seed=None)
        add_file(open_bundle(out), f"reports/eval-{report['dataset']}{at}.json", json_bytes(report), step=step)
    return out


def test_bundles_their_rounds_and_folders_of_runs_are_rows(tiny_bundle: Path, saved: Saved, tmp_path: Path) -> None:
    subnet = with_reports(
        tiny_bundle,
        tmp_path / "subnet",
        evaluated("coco", 0.3),
        evaluated("shapes", 0.4),
        evaluated("coco", 0.5, at_sparsity=0.2),
    )
    for run in ("first", "second"):
        with_reports(tiny_bundle, tmp_path / "runs" / run / "trained", evaluated("coco", 0.6))
    saved("runs/dense", evaluated("coco", 0.7, framework="fcclip"))
    saved("runs/notes", {**evaluated("coco", 0.7), "per_class": []}).write_text('{"steps": [1, 2]}')
    table = compare([subnet, tmp_path / "runs"]).table
    rows = {row.name: {column: cell.value for column, cell in row.cells.items()} for row in table.rows}
    assert rows == {
        "subnet": {"coco miou": 0.3, "shapes miou": 0.4},
        "subnet at 0.2": {"coco miou": 0.5},
        "runs": {"coco miou": 0.7},
        "first/trained": {"coco miou": 0.6},
        "second/trained": {"coco miou": 0.6},
    }


def test_two_reports_of_one_segmentor_on_one_data_set_are_two_rows(saved: Saved, tmp_path: Path) -> None:
    saved("runs/monday", evaluated("coco", 0.3))
    saved("runs/tuesday", evaluated("coco", 0.4))
    saved("other/monday", evaluated("coco", 0.5))
    names = [row.name for row in compare([tmp_path / "runs", tmp_path / "other" / "monday.json"]).table.rows]
    assert names == ["runs/monday", "tuesday", "other/monday"]


def test_a_source_without_a_report_says_what_to_run(tiny_bundle: Path, saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    good = saved("good", evaluated("coco", 0.5))
    broken = saved("runs/broken", {**evaluated("coco", 0.5), "miou": 50.0})
    (tmp_path / "text.json").write_text("no JSON")
    screen = saved("screen", evaluated("coco", 0.5, environment={"device": "\x1b[2J"}))
    cases: tuple[tuple[Any, type[Exception], str], ...] = (
        (tiny_bundle, DataError, f"nothing was evaluated: {tiny_bundle} .*; run `opentrans eval {tiny_bundle}`"),
        (tmp_path / "empty", DataError, r"nothing was evaluated: .*; run `opentrans eval SOURCE --out .*NAME.json`"),
        (tmp_path / "goof.json", DataError, r"no such bundle, folder or report: .*did you mean .*good.json\?"),
        ("tiny", DataError, r"run `opentrans eval tiny --out NAME.json`"),
        (broken, BundleError, "broken.json' is not a valid eval report: at 'miou'"),
        (broken.parent, BundleError, "broken.json' is not a valid eval report: at 'miou'"),
        (tmp_path / "text.json", BundleError, "not readable as JSON: .*text.json"),
        (screen, BundleError, "text with control characters: .*screen.json'; run eval again"),
        ([good, tmp_path / "." / "good.json"], OptionError, "named twice: .*; name it once"),
        ([], OptionError, "nothing to compare: no source is named"),
    )
    for source, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            compare(source)
        assert "\n" not in str(caught.value)


@pytest.fixture
def three(saved: Saved) -> list[Path]:
    """Two that agree, and one that does not, with a name full of signs."""
    odd = evaluated("coco", 0.9, protocol={"absent": "zero"})
    return [
        saved("dense", evaluated("coco", 0.512)),
        saved("subnet", evaluated("coco", 0.467)),
        saved("a_b|50%&co", odd),
    ]


def test_a_file_has_the_figures_of_the_table_in_each_form(three: list[Path], tmp_path: Path) -> None:
    def written(suffix: str) -> str:
        return compare(three, out=tmp_path / f"table{suffix}", force=True).path.read_text()  # type: ignore[union-attr]

    document = json.loads(written(".json"))
    check_document(document, "score_table")
    assert document == compare(three).to_json()
    head, *rows = csv.reader(io.StringIO(written(".csv")))
    assert [dict(zip(head, row, strict=True))["coco_miou"] for row in rows] == ["51.2000", "46.7000", "90.0000"]
    assert dict(zip(head, rows[2], strict=True))["notes"] == "coco_miou: absent classes count as 0, unlike dense"
    lines = written(".md").splitlines()
    assert lines[0] == "| segmentor | COCO | parameters | MACs | at | ms/image | device |"
    assert lines[2] == "| dense | **51.2** | 1.5 M of 2 M | 2 G of 3 G | 480 x 640 | 125.0 | cpu |"
    assert lines[4].startswith("| a\\_b\\|50%&co | 90.0 <sup>a</sup> |")
    assert {line.count("|") - line.count("\\|") for line in lines[:5]} == {8}
    assert "<sup>a</sup> absent classes count as 0, unlike dense." in written(".md")
    latex = written(".tex")
    assert r"dense & \textbf{51.2} & 1.5 M of 2 M" in latex and r"a\_b|50\%\&co & 90.0$^{a}$" in latex
    assert re.findall(r"begin\{tabular\}\{(.*?)\}", latex) == ["lrrrrrr"]


def test_it_fits_a_terminal_of_eighty_columns(three: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    show_comparison(Console(width=80), compare(three, published=True).table)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    for text in ("51.2*", "90.0 a", "City-", "42.5", "2 G", "480 x 640", "125.0", "a absent classes count as 0"):
        assert text in shown


def test_published_rows_are_those_of_the_paper(shared: Path) -> None:
    paper = json.loads((shared / "reference" / "paper_tables.json").read_text())
    named = {
        "COCO": "coco",
        "Cityscapes": "cityscapes",
        "ADE20K-150": "ade20k-150",
        "ADE20K-847": "ade20k-847",
        "PAS-20": "voc-20",
        "PAS-21": "voc-21",
        "PC-59": "context-59",
        "PC-459": "context-459",
    }
    rows = published_scores().rows
    size = {"M": 1e6, "G": 1e9}
    first = [row for row in rows if row.published == "arXiv 2404.07448, Table 1"]
    for row, given in zip(first, paper["table1_model_efficiency"], strict=True):
        assert row.name == given["model"]
        assert (row.params, row.macs) == tuple(
            pytest.approx(float(given[name][:-1]) * size[given[name][-1]]) for name in ("params", "flops")
        )
        wanted = {named[key]: {"miou": pytest.approx(v / 100)} for key, v in given["miou"].items() if v is not None}
        assert row.scores == wanted
    second = [row for row in rows if row.published == "arXiv 2404.07448, Table 2"]
    for row, given in zip(second, paper["table2_efficient_finetuning"][1:], strict=True):  # the first is in Table 1
        assert row.scores == {named[key]: {"miou": pytest.approx(v / 100)} for key, v in given["miou"].items()}
    (readme,) = [row for row in rows if "README" in row.published]
    assert readme.scores == {
        named[key]: {metric.lower(): pytest.approx(v / 100) for metric, v in scores.items()}
        for key, scores in paper["fcclip_readme_resnet50"].items()
        if key in named
    }


def test_published_rows_are_marked_and_never_the_best(three: list[Path], tmp_path: Path) -> None:
    result = compare(three, published=True, out=tmp_path / "t.md")
    measured = [row for row in result.table.rows if row.published is None]
    assert [row.name for row in measured] == ["dense", "subnet", "a_b|50%&co"] and len(result.table.rows) > 12
    assert not any(cell.best for row in result.table.rows if row.published for cell in row.cells.values())
    head, _, *lines = (tmp_path / "t.md").read_text().splitlines()
    assert head.startswith("| segmentor | from | COCO | Cityscapes | A-150 | A-847 | PAS-20 | PC-59 | PC-459 | param")
    rows = [line for line in lines if line.startswith("|")]
    assert all("| measured |" in line or "| arXiv 2404" in line or "| README of" in line for line in rows)
    assert len([line for line in lines if line.startswith("Published: ")]) == len(published_scores().notes)
    alone = compare(published=True).table
    assert {column.metric for column in alone.columns} == {"miou", "pq", "ap"}
    check_document(alone.to_json(), "score_table")


def test_from_python_it_stands_beside_evaluate(three: list[Path]) -> None:
    assert ot.compare(three[:2]).table == compare(three[:2]).table
