"""eval: figures against slow and obvious counts of the label maps that segment writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.datasets.class_file import read_classes
from opentrans_cli.datasets.images import read_label_map, write_label_map
from opentrans_cli.datasets.options import DatasetOptions
from opentrans_cli.errors import PictureError
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.look.verify import verify
from opentrans_cli.steps.prune.prune import prune
from opentrans_cli.steps.segment.segment import segment
from opentrans_cli.steps.transfer.transfer import transfer


def options(folder: Any, **changes: Any) -> DatasetOptions:
    given = {"images": folder.images, "labels": folder.labels, "classes": folder.classes}
    return DatasetOptions(split="val", **{**given, **changes})


def predictions(source: Path | str, folder: Any, out: Path) -> dict[str, np.ndarray]:
    """Label maps by name, as segment writes them."""
    vocabulary = read_classes(folder.classes).vocabulary
    result = segment(str(source), images=[folder.images], out=out, device="cpu", words=vocabulary)
    return {image["name"]: read_label_map(out / image["label_map"]) for image in result.images}


def accuracy(report: dict[str, Any]) -> dict[str, Any]:
    return {name: report[name] for name in ("miou", "miou_seen", "miou_unseen", "pixel_accuracy", "per_class")}


def test_a_segmentor_agrees_perfectly_with_its_own_predictions(
    tiny_segmentor: Path, labelled_folder: Any, tmp_path: Path
) -> None:
    found = predictions(tiny_segmentor, labelled_folder, tmp_path / "s")
    for name in found:
        shutil.copy(tmp_path / "s" / f"{name}.png", labelled_folder.labels / f"{name}.png")
    report = evaluate(
        str(tiny_segmentor), dataset="folder", **vars(options(labelled_folder)), out=tmp_path / "r.json", device="cpu"
    ).report
    assert report["miou"] == report["pixel_accuracy"] == 1
    occurring = {int(index) for label_map in found.values() for index in np.unique(label_map)}
    assert [entry["iou"] for entry in report["per_class"]] == [1 if index in occurring else None for index in range(3)]


def test_pictures_are_scored_in_the_windows_in_which_they_are_labelled(labelled_folder: Any, tmp_path: Path) -> None:
    shutil.rmtree(labelled_folder.labels)
    pixels = np.random.default_rng(0).integers(0, 256, (100, 141, 3), dtype=np.uint8)
    for path in labelled_folder.images.iterdir():
        path.unlink()
    Image.fromarray(pixels).save(labelled_folder.images / "0.png")
    given, words = {"window": 64, "overlap": 0.5}, read_classes(labelled_folder.classes).vocabulary
    once = {"images": labelled_folder.images, "out": labelled_folder.labels, "overlay": False, "device": "cpu"}
    segment("tiny", words=words, **once, **given)
    chosen = {"dataset": "folder", **vars(options(labelled_folder)), "device": "cpu"}
    parted = evaluate("tiny", **chosen, **given, out=tmp_path / "a.json").report
    whole = evaluate("tiny", **chosen, out=tmp_path / "b.json").report
    assert parted["pixel_accuracy"] == 1 > whole["pixel_accuracy"]
    assert parted["protocol"]["windows"] == {"side": 64, "overlap": 0.5} and whole["protocol"]["windows"] is None
    assert parted["resolution"] == [64, 64] and parted["macs"] > whole["macs"]
    check_document(parted, "eval_report")


def test_iou_is_intersection_over_union_of_the_written_label_maps(
    tiny_segmentor: Path, labelled_folder: Any, tmp_path: Path
) -> None:
    found = predictions(tiny_segmentor, labelled_folder, tmp_path / "s")
    truth = {name: read_label_map(labelled_folder.labels / f"{name}.png") for name in found}
    report = evaluate(
        str(tiny_segmentor), dataset="folder", **vars(options(labelled_folder)), out=tmp_path / "r.json", device="cpu"
    ).report
    labelled = {name: label_map != 255 for name, label_map in truth.items()}
    for index, entry in enumerate(report["per_class"]):
        both = sum(int(((truth[n] == index) & (found[n] == index) & labelled[n]).sum()) for n in found)
        either = sum(int((((truth[n] == index) | (found[n] == index)) & labelled[n]).sum()) for n in found)
        assert entry["iou"] == pytest.approx(both / either)
    right = sum(int(((truth[n] == found[n]) & labelled[n]).sum()) for n in found)
    assert report["pixel_accuracy"] == pytest.approx(right / sum(int(mask.sum()) for mask in labelled.values()))
    assert report["miou"] == pytest.approx(np.mean([entry["iou"] for entry in report["per_class"]]))
    pixels = [sum(int((truth[n] == index).sum()) for n in found) for index in range(3)]
    weighted = sum(share * entry["iou"] for share, entry in zip(pixels, report["per_class"], strict=True))
    assert report["fwiou"] == pytest.approx(weighted / sum(pixels)) and report["absent"] == "exclude"
    assert report["macc"] == pytest.approx(np.mean([entry["accuracy"] for entry in report["per_class"]]))


def test_a_class_that_no_label_map_has_counts_as_zero_if_asked(labelled_folder: Any, tmp_path: Path) -> None:
    for label_map in labelled_folder.labels.iterdir():
        ids = read_label_map(label_map)
        write_label_map(label_map, np.where(ids == 1, 255, ids), np.zeros((3, 3), np.uint8))
    given = {**vars(options(labelled_folder)), "dataset": "folder", "device": "cpu"}
    excluded, zero = (evaluate("tiny", **given, absent=rule, boundary=True).report for rule in ("exclude", "zero"))
    near, rows = zero["boundary"], zero["per_class"]
    assert near["miou"] == pytest.approx(np.mean([row["boundary_iou"] for row in rows]))
    assert near["min_miou"] == pytest.approx(np.mean([min(row["iou"], row["boundary_iou"]) for row in rows]))
    assert [entry["iou"] for entry in excluded["per_class"]][1] is None and zero["per_class"][1]["iou"] == 0
    assert zero["per_class"][1]["accuracy"] is None and zero["protocol"]["absent"] == zero["absent"] == "zero"
    assert zero["miou"] == pytest.approx(excluded["miou"] * 2 / 3) and zero["fwiou"] == excluded["fwiou"]


def test_seen_and_unseen_are_means_over_their_own_classes(labelled_folder: Any, tmp_path: Path) -> None:
    data = options(labelled_folder, hold_out=("red square", "blue square"))
    report = evaluate("tiny", dataset="folder", **vars(data), device="cpu").report
    values = {entry["name"]: entry["iou"] for entry in report["per_class"]}
    assert report["miou_seen"] == pytest.approx(values["grass"])
    assert report["miou_unseen"] == pytest.approx((values["red square"] + values["blue square"]) / 2)


def test_what_training_saw_is_read_from_the_bundle(tiny_segmentor: Path, tmp_path: Path) -> None:
    data = DatasetOptions(split="val", limit=1)
    report = evaluate(str(tiny_segmentor), **vars(data), out=tmp_path / "r.json", device="cpu").report
    record = open_bundle(tiny_segmentor).manifest.segmentor
    assert record is not None
    assert {entry["name"] for entry in report["per_class"] if entry["seen"]} == set(record.seen)


def test_a_measurement_adds_a_report_and_keeps_the_digest(
    tiny_segmentor: Path, labelled_folder: Any, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_segmentor, tmp_path / "b"))
    digest = open_bundle(copy).digest
    reports = [
        evaluate(str(copy), dataset="folder", **vars(options(labelled_folder)), device="cpu").report for _ in range(2)
    ]
    bundle = open_bundle(copy)
    assert accuracy(reports[0]) == accuracy(reports[1])
    assert json.loads(bundle.read("reports/eval-folder.json")) == reports[1]
    assert bundle.digest == digest
    assert [step.verb for step in bundle.manifest.steps] == ["prune", "finetune", "eval", "eval"]
    assert bundle.manifest.steps[-1].data == reports[1]["data"] and verify(copy).ok


def test_a_bundle_that_prunes_nothing_scores_as_its_base(labelled_folder: Any, tmp_path: Path) -> None:
    path = prune("tiny", sparsity=0.0, out=tmp_path / "b", device="cpu").path
    reports = [
        evaluate(source, dataset="folder", **vars(options(labelled_folder)), device="cpu").report
        for source in ("tiny", str(path))
    ]
    same = ("macs", "macs_kept", "params_dense", "params_kept", "framework", "resolution")
    assert accuracy(reports[0]) == accuracy(reports[1])
    assert {name: reports[0][name] for name in same} == {name: reports[1][name] for name in same}


def test_a_bundle_scores_alike_before_and_after_transfer_to_the_training_free_readout(
    tiny_bundle: Path, labelled_folder: Any, tmp_path: Path
) -> None:
    before = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    transfer(before, to="maskclip", out=tmp_path / "t")
    reports = [
        evaluate(str(source), dataset="folder", **vars(options(labelled_folder)), device="cpu").report
        for source in (before, tmp_path / "t")
    ]
    assert accuracy(reports[0]) == accuracy(reports[1])


class Heard:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0) -> Iterator[Callable[[str], None]]:
        yield lambda status: None


def test_a_class_that_no_pixel_has_and_skipped_pictures_are_said(labelled_folder: Any, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(labelled_folder.labels.iterdir())):
        label_map = read_label_map(path)
        write_label_map(path, np.where(label_map == 0, 0, 255), np.zeros((256, 3)))
        if number == 1:
            (labelled_folder.images / path.name).write_bytes(b"no picture")
        if number == 2:
            Image.new("RGB", (99, 31)).save(labelled_folder.images / path.name)
            Image.new("L", (99, 31)).save(path)
    given = vars(options(labelled_folder))
    with pytest.raises(PictureError, match="image cannot be read: "):
        evaluate("tiny", **given, out=tmp_path / "r.json")
    heard, total = Heard(), number + 1
    report = evaluate("tiny", **{**given, "skip_bad": True}, out=tmp_path / "r.json", reporter=heard).report
    assert (report["images"], len(report["skipped"])) == (total - 2, 2)
    assert f"skipped 2 of {total} pictures" in heard.said
    (line,) = [
        text for text in heard.said if text.startswith("no pixel of the label maps is: red square, blue square; ")
    ]
    assert "masks of 0 and 255 need the ids in the class file" in line
    assert [entry["iou"] is None for entry in report["per_class"]] == [False, True, True]
