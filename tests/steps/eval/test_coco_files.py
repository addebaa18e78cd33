"""Anybody's predictions in COCO's formats: figures of the definition and of pycocotools, and what does not fit."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_quality import read_ids, slow_means, slow_quality, write_ids, write_panoptic
from PIL import Image

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.datasets.coco_objects import read_objects
from opentrans_cli.errors import DataError, OpentransError, OptionError
from opentrans_cli.metrics.mask_ap import SUMMARY, coco_library, packed_region
from opentrans_cli.steps.eval.coco_files import score_coco_files

CATEGORIES = [(3, "grass", False), (7, "cat", True), (9, "dog", True)]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """Two pictures of grass with two cats and a dog; in the second the dogs are a crowd, and the frame is void."""
    first = np.full((20, 30), 500, np.int32)
    first[2:8, 2:9], first[10:16, 3:12], first[5:15, 18:28] = 70000, 2, 3
    second = first.copy()
    second[[0, -1]] = 0
    parts = [(500, 3), (70000, 7), (2, 7), (3, 9)]
    crowd = [*parts[:3], (3, 9, 1)]
    return write_panoptic(tmp_path / "truth.json", {"4.jpg": (first, parts), "5.jpg": (second, crowd)}, CATEGORIES)


def guessed(tmp_path: Path, *, listed: bool = False, numbers: dict[int, int] | None = None) -> Path:
    """Predictions: a cat is moved, another taken for a dog, and dogs are found where the crowd is."""
    numbers = numbers or {3: 3, 7: 7, 9: 9}
    ids = np.full((20, 30), 1, np.int32)
    ids[3:9, 2:9], ids[10:16, 3:12], ids[6:15, 19:28] = 2, 3, 90000
    parts = [(1, numbers[3]), (2, numbers[7]), (3, numbers[9]), (90000, numbers[9])]
    names = [(numbers[number], name, thing) for number, name, thing in CATEGORIES]
    return write_panoptic(tmp_path / "found.json", {"4.jpg": (ids, parts), "5.jpg": (ids, parts)}, names, listed=listed)


def slow_report(truth: Path, found: Path) -> dict[int, Any]:
    """Counts by category id, from the files alone."""
    images = []
    predicted = {a["image_id"]: a for a in json.loads(found.read_text())["annotations"]}
    for true in json.loads(truth.read_text())["annotations"]:
        guess = predicted[true["image_id"]]
        parts = [(part["id"], part["category_id"], bool(part.get("iscrowd", 0))) for part in true["segments_info"]]
        guesses = [(part["id"], part["category_id"]) for part in guess["segments_info"]]
        true_ids = read_ids(truth.with_suffix("") / true["file_name"])
        images.append((true_ids, parts, read_ids(found.with_suffix("") / guess["file_name"]), guesses))
    return slow_quality(images)


def test_panoptic_predictions_get_the_figures_of_the_definition_in_percent(truth: Path, tmp_path: Path) -> None:
    found = guessed(tmp_path)
    report, slow = score_coco_files(found, truth, "panoptic"), slow_report(truth, found)
    for group, classes in (("all", [3, 7, 9]), ("things", [7, 9]), ("stuff", [3])):
        part = report if group == "all" else report[group]
        for name, expected in slow_means(slow, classes).items():
            assert expected is not None and part[name] == pytest.approx(100 * expected, rel=0, abs=1e-9), (group, name)
    assert report["images"] == 2 and report["classes"] == 3 and report["things"]["classes"] == 2
    tp, fp, fn, iou = slow[9]
    dog = report["per_class"]["dog"]
    assert (dog["true_positives"], dog["false_positives"], dog["false_negatives"]) == (tp, fp, fn) == (1, 2, 0)
    assert dog["pq"] == pytest.approx(float(100 * iou / (tp + (fp + fn) / 2)))


def test_categories_are_found_by_name_and_images_by_file_name_where_predictions_number_their_own(
    truth: Path, tmp_path: Path
) -> None:
    plain = score_coco_files(guessed(tmp_path), truth, "panoptic")
    found = guessed(tmp_path, listed=True, numbers={3: 9, 7: 0, 9: 3})
    assert score_coco_files(found, truth, "panoptic") == plain
    document = json.loads(found.read_text())
    for entry in document["images"]:
        entry["id"] += 70
    for entry in document["annotations"]:
        entry["image_id"] += 70
    found.write_text(json.dumps(document))
    assert score_coco_files(found, truth, "panoptic") == plain


def test_a_perfect_prediction_gives_a_hundred(truth: Path) -> None:
    document = json.loads(truth.read_text())
    for entry in document["annotations"]:
        entry["segments_info"] = [part for part in entry["segments_info"] if not part.get("iscrowd")]
    second = truth.with_suffix("") / "5.png"
    found = truth.with_name("found.json")
    found.write_text(json.dumps(document))
    found.with_suffix("").mkdir()
    (found.with_suffix("") / "4.png").write_bytes((truth.with_suffix("") / "4.png").read_bytes())
    ids = read_ids(second)
    write_ids(found.with_suffix("") / "5.png", np.where(ids == 3, 0, ids))
    report = score_coco_files(found, truth, "panoptic")
    assert (report["pq"], report["sq"], report["rq"]) == (100, 100, 100)


Change = Callable[[dict[str, Any], Path], object]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d, f: d["annotations"].pop(), r"no predicted segments of image 2 \(5.jpg\): .*found.json"),
        (lambda d, f: (f / "5.png").unlink(), "panoptic PNG that .* lists is not there: .*5.png"),
        (lambda d, f: write_ids(f / "4.png", np.ones((9, 9), int)), "segment 2 is only in the JSON: .*4.png"),
        (lambda d, f: d["annotations"][0]["segments_info"].pop(), "segment 90000 is only in the PNG: .*4.png"),
        (lambda d, f: d["annotations"][0]["segments_info"][0].update(category_id=5), "category id without a class: 5"),
        (lambda d, f: d.update(categories=[{"id": 1, "name": "gras"}]), "first 'gras': .*did you mean grass"),
    ],
)
def test_panoptic_files_that_do_not_fit_are_named(change: Change, says: str, truth: Path, tmp_path: Path) -> None:
    found = guessed(tmp_path)
    document = json.loads(found.read_text())
    change(document, found.with_suffix(""))
    found.write_text(json.dumps(document))
    with pytest.raises(DataError, match=says) as raised:
        score_coco_files(found, truth, "panoptic")
    assert "\n" not in str(raised.value)


def test_a_png_that_is_missing_is_named_before_any_is_read(truth: Path, tmp_path: Path) -> None:
    found = guessed(tmp_path)
    (found.with_suffix("") / "5.png").unlink()
    (truth.with_suffix("") / "4.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"panoptic PNG that .*found.json lists is not there: .*found.5\.png"):
        score_coco_files(found, truth, "panoptic")


def test_predicted_segments_of_another_size_are_named(truth: Path, tmp_path: Path) -> None:
    found = guessed(tmp_path)
    path = found.with_suffix("") / "5.png"
    picture = Image.open(path)
    picture.resize((15, 10), Image.Resampling.NEAREST).save(path)
    with pytest.raises(DataError, match=r"predicted segments are 15 x 10, the true ones 30 x 20: .*5\.png"):
        score_coco_files(found, truth, "panoptic")


def drawn_objects(rng: np.random.Generator, count: int = 12) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """True objects of three classes in pictures of 160 x 120, of all sizes, crowds and polygons; and found ones."""
    images = [{"id": 40 + number, "file_name": f"{number}.jpg", "height": 120, "width": 160} for number in range(count)]
    annotations, results = [], []
    for image in images:
        for _ in range(rng.integers(1, 7)):
            side = int(rng.choice([12, 40, 110]))
            top, left = int(rng.integers(0, 120 - side + 1)), int(rng.integers(0, 160 - side + 1))
            mask = np.zeros((120, 160), bool)
            mask[top : top + side, left : left + side] = True
            kind, crowd = int(rng.choice([2, 5, 8])), bool(rng.random() < 0.15)
            corners = [left, top, left + side, top, left + side, top + side, left, top + side]
            region = packed_region(mask) if crowd or rng.random() < 0.6 else [[float(corner) for corner in corners]]
            entry = {"id": len(annotations), "image_id": image["id"], "category_id": kind, "iscrowd": int(crowd)}
            annotations.append({**entry, "segmentation": region, "area": side * side, "bbox": [left, top, side, side]})
            for _ in range(rng.integers(0, 3)):
                moved = np.roll(mask, tuple(rng.integers(-4, 5, 2)), (0, 1))
                found = kind if rng.random() < 0.8 else int(rng.choice([2, 5, 8]))
                score = float(rng.integers(1, 100)) / 100
                results.append(
                    {
                        "image_id": image["id"],
                        "category_id": found,
                        "segmentation": packed_region(moved),
                        "score": score,
                    }
                )
    for entry in annotations:
        entry["id"] += 1
    names = [{"id": number, "name": name} for number, name in ((2, "cat"), (5, "dog"), (8, "bird"), (11, "never"))]
    return {"images": images, "categories": names, "annotations": annotations}, results


def test_mask_ap_is_that_of_pycocotools(tmp_path: Path) -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    document, results = drawn_objects(np.random.default_rng(0))
    truth, found = tmp_path / "instances.json", tmp_path / "results.json"
    truth.write_text(json.dumps(document))
    found.write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        known = coco.COCO(str(truth))
        judged = cocoeval.COCOeval(known, known.loadRes(str(found)), "segm")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    report = score_coco_files(found, truth, "instance")
    assert len({round(value, 6) for value in judged.stats[:6]}) == 6 and min(judged.stats[:6]) > 0
    for name, expected in zip(SUMMARY, judged.stats[:6], strict=True):
        assert report[name] == pytest.approx(100 * expected, rel=0, abs=1e-9)
    for index, name in enumerate(("cat", "dog", "bird")):
        precision = judged.eval["precision"][:, :, index, 0, -1]
        assert report["per_class"][name]["ap"] == pytest.approx(100 * precision.mean(), rel=0, abs=1e-9)
    assert report["per_class"]["never"]["ap"] is None and report["images"] == 12

    # Run lengths as lists, boxes beside them, and nothing found.
    for entry in results:
        flat = coco_library().mask.decode(entry["segmentation"]).ravel(order="F")
        lengths = np.diff(np.flatnonzero(np.diff(flat, prepend=2, append=2)))
        entry["segmentation"] = {"size": [120, 160], "counts": [0] * int(flat[0]) + lengths.tolist()}
        entry["bbox"] = [0, 0, 160, 120]
    found.write_text(json.dumps(results))
    assert score_coco_files(found, truth, "instance") == report
    found.write_text("[]")
    assert score_coco_files(found, truth, "instance")["ap"] == 0


def test_boxes_beside_masks_change_no_figure(tmp_path: Path) -> None:
    square, diagonal = np.zeros((60, 60), bool), np.zeros((60, 60), bool)
    square[5:40, 5:40] = True
    for place in range(58):
        diagonal[place, place : place + 2] = True
    image, area = {"id": 1, "file_name": "1.jpg", "height": 60, "width": 60}, int(square.sum())
    true = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": packed_region(square), "area": area}
    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps({"images": [image], "categories": [{"id": 1, "name": "thing"}], "annotations": [true]}))
    results = [
        {"image_id": 1, "category_id": 1, "segmentation": packed_region(mask), "score": score}
        for mask, score in ((diagonal, 0.9), (square, 0.8))
    ]
    found.write_text(json.dumps(results))
    alone = score_coco_files(found, truth, "instance")
    boxed = [each | {"bbox": box} for each, box in zip(results, ([0, 0, 59, 58], [5, 5, 35, 35]), strict=True)]
    found.write_text(json.dumps(boxed))
    assert (alone["ap"], alone["ap_medium"]) == (pytest.approx(50, abs=1), 100)
    assert score_coco_files(found, truth, "instance") == alone


def _result(**given: Any) -> Change:
    return lambda truth, results: results[0].update(given)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_result(image_id=7), "image that is not listed: 7 in .*results.json, entry 0"),
        (_result(category_id=7), "category id without a class: 7 in .*results.json, entry 0"),
        (_result(score=None), "object without a score: .*results.json, entry 0"),
        (_result(segmentation=[]), "object without a mask: .*results.json, entry 0"),
        (_result(segmentation={"size": [9, 9], "counts": "1"}), r"mask and image differ in size: .*entry 0 has \[9, 9"),
        (
            _result(segmentation={"size": [120, 160], "counts": [1, 2]}),
            "run lengths do not fill their image: .*entry 0",
        ),
        (lambda t, r: r[0].pop("segmentation"), "object without a mask: .*entry 0; boxes alone have no mask AP"),
        (lambda t, r: t["annotations"][0].pop("segmentation"), "object without a mask: .*annotations.0."),
        (lambda t, r: t["annotations"][0].pop("area"), "has no 'area': .*annotations.0."),
        (lambda t, r: t["images"][0].pop("width"), "no size of an image: 0.jpg in .*truth.json"),
    ],
)
def test_files_of_objects_that_do_not_fit_are_named(change: Any, says: str, tmp_path: Path) -> None:
    document, results = drawn_objects(np.random.default_rng(1), 2)
    change(document, results)
    truth, found = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(document))
    found.write_text(json.dumps(results))
    with pytest.raises(DataError, match=says) as raised:
        score_coco_files(found, truth, "instance")
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named_with_its_extra(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(OptionError, match=r"not installed; pip install 'opentrans-cli\[coco\]'"):
        score_coco_files(tmp_path / "found.json", truth, "instance")


def test_files_that_are_none_are_refused(truth: Path, tmp_path: Path) -> None:
    found = guessed(tmp_path)
    for task, predictions, known in (
        ("panoptic", tmp_path / "none.json", truth),
        ("panoptic", tmp_path, truth),
        ("instance", found, truth),
        ("panoptic", found, tmp_path / "none.json"),
    ):
        with pytest.raises(OpentransError) as raised:
            score_coco_files(predictions, known, task)
        assert "\n" not in str(raised.value) and "; " in str(raised.value)


def test_cocos_detection_sample_is_read(shared: Path) -> None:
    listed = read_objects(shared / "data" / "coco_panopticapi_sample" / "panoptic_coco_detection_format.json")
    assert len(listed.images) == 2 and len(listed.categories) == 133
    assert any(each.crowd for each in listed.objects) and all(each.area > 0 for each in listed.objects)


def test_the_command_prints_one_document_and_refuses_what_contradicts(
    truth: Path, tmp_path: Path, run_cli: Any
) -> None:
    found, out = guessed(tmp_path), tmp_path / "report.json"
    line = ("eval", "--predictions", found, "--labels", truth, "--task", "panoptic")
    printed = run_cli(*line, "--json", "--out", out)
    assert printed.exit_code == 0, printed.stderr
    document = json.loads(printed.stdout)
    check_document(document, "panoptic_predictions_report")
    assert document == json.loads(out.read_text()) == score_coco_files(found, truth, "panoptic")
    table = run_cli(*line).stdout
    assert "things" in table and f"{document['pq']:.1f}" in table

    objects, results = drawn_objects(np.random.default_rng(0), 2)
    (tmp_path / "instances.json").write_text(json.dumps(objects))
    (tmp_path / "results.json").write_text(json.dumps(results))
    line = ("eval", "--predictions", tmp_path / "results.json", "--labels", tmp_path / "instances.json")
    document = json.loads(run_cli(*line, "--task", "instance", "--json").stdout)
    check_document(document, "instance_predictions_report")
    assert f"{document['ap50']:.1f}" in run_cli(*line, "--task", "instance").stdout
    for more, says in (
        (("tiny", "--task", "instance"), "predictions are scored without a segmentor: SOURCE"),
        (("--task", "instanc"), "did you mean instance"),
        (("--task", "instance", "--limit", "1"), "takes files in COCO's formats: --limit"),
    ):
        refused = run_cli(*line, *more)
        assert refused.exit_code == 2 and says in refused.stderr
    assert "the truth is missing" in run_cli(*line[:3], "--task", "instance").stderr
