"""Published data sets on the command line: what is wrong is one line with the file's name and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_trees import write_split
from PIL import Image

from opentrans_cli.datasets import DATASETS

VOC, CITY = "VOCdevkit/VOC2012", "cityscapes"


def resized(path: Path) -> None:
    Image.fromarray(np.zeros((40, 90), np.uint8)).save(path)


def shallow(path: Path) -> None:
    Image.fromarray(np.zeros((48, 96), np.uint8)).save(path)


def strange(path: Path) -> None:
    with Image.open(path) as opened:
        ids = np.array(opened)
    ids[:9] = 200
    Image.fromarray(ids).save(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def without_a_segment(path: Path) -> None:
    document = json.loads(path.read_text())
    document["annotations"][1]["segments_info"].pop()
    path.write_text(json.dumps(document))


def without_an_image(path: Path) -> None:
    document = json.loads(path.read_text())
    document["annotations"][1]["file_name"] = "d_000003.png"
    path.write_text(json.dumps(document))


def in_colour(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def raw_ade(root: Path) -> None:
    (root / "ADE20K_2021_17_01/images/ADE").mkdir(parents=True)


def three_classes(path: Path) -> None:
    path.write_text("road\ncar\nsky\n")


LABEL, PHOTO = f"{VOC}/SegmentationClass/b_000001.png", f"{VOC}/JPEGImages/b_000001.jpg"
CITY_LABEL = f"{CITY}/gtFine/val/b_000001_gtFine_labelIds.png"
JSON = "coco/annotations/panoptic_val2017.json"
FULL = "ADE20K_2021_17_01/annotations_detectron2/validation/b_000001.png"

FAULTS: dict[str, tuple[str, str, Callable[[Path], object], tuple[str, ...], str, str]] = {
    "missing label": ("voc-21", LABEL, Path.unlink, (), "1 images have no label map: first 'b_000001'", "add it to "),
    "missing photo": ("voc-21", PHOTO, Path.unlink, (), "'b_000001' in line 2", "correct the list"),
    "wrong size": ("voc-20", LABEL, resized, (), "image is 96x48 but its label map 90x40", "resize the label map"),
    "id out of range": (
        "cityscapes",
        CITY_LABEL,
        strange,
        (),
        "id 200 has no class",
        "make sure",
    ),
    "empty split": (
        "cityscapes",
        f"{CITY}/leftImg8bit/val",
        emptied,
        (),
        "not whole: cityscapes (val)",
        "lists the files",
    ),
    "unreadable photo": ("voc-21", PHOTO, cut, (), "image cannot be read", "replace it"),
    "no photo": ("voc-21", PHOTO, lambda path: path.write_text("a photo"), (), "image cannot be read", "replace it"),
    "classes": (
        "cityscapes",
        "words.txt",
        three_classes,
        ("--classes",),
        "has 3 classes, cityscapes has 19",
        "give a line",
    ),
    "words": (
        "voc-20",
        "words.txt",
        three_classes,
        ("--vocabulary",),
        "has 3 classes, the data set has 20",
        "give one",
    ),
    "unprepared": (
        "ade20k-847",
        ".",
        raw_ade,
        (),
        "data set is not prepared: ade20k-847",
        "prepare ade20k-847 --root ",
    ),
    "segment": ("coco", JSON, without_a_segment, (), "do not fit, segment 39607 is only in the PNG", "belong together"),
    "entry": ("coco", JSON, without_an_image, (), "have no photo: first 'd_000003'", "add it to "),
    "JSON": ("coco", JSON, lambda path: path.write_text("{"), (), "is no JSON", "write it again"),
    "same stem": ("voc-21", f"{VOC}/JPEGImages/b_000001.png", in_colour, (), "two images with one stem", "keep one"),
    "8 bits": ("ade20k-847", FULL, shallow, (), "label map has 8 bits, but ids of ade20k-847 need 16", "make it again"),
    "colours": ("voc-21", LABEL, in_colour, (), "label map has colours, not ids", "save a palette or grey PNG"),
}


def test_a_published_data_set_is_scored_on_one_split_and_trained_on_the_other(
    run_cli: Any, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, root = DATASETS.load("cityscapes"), tmp_path / "data"
    for split in ("train", "val"):
        write_split(benchmark, benchmark.layouts[0], root, split)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    out = tmp_path / "trained"
    options = ("--steps", 1, "--batch-size", 2, "--crop", 32, "--eval-every", 1, "--eval-limit", 2)
    trained = run_cli("finetune", tiny_bundle, "--dataset", "cityscapes", "--limit", 2, *options, "-o", out)
    assert trained.exit_code == 0 and "cityscapes (train): labelIds" in trained.stderr
    result = run_cli("eval", out, "--dataset", "cityscapes", "--limit", 2, "--json")
    assert "cityscapes (val): labelIds" in result.stderr
    report = json.loads(result.stdout)
    assert (report["dataset"], report["images"], report["classes"]) == ("cityscapes", 2, 19)
    assert (out / "reports" / "eval-cityscapes.json").is_file()


def test_a_tower_is_pruned_on_the_training_images_of_a_published_data_set_and_on_their_labels(
    run_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, root = DATASETS.load("voc-21"), tmp_path / "data"
    write_split(benchmark, benchmark.layouts[0], root, "train")
    line = ("prune", "tiny", "--sparsity", 0.1, "--rate", 0.1, "--criterion", "magnitude", "--batch-size", 2)
    line = (*line, "--steps-per-round", 1, "--final-steps", 1, "--images", "voc-21")
    done = run_cli(*line, "--root", root, "-o", tmp_path / "image")
    assert done.exit_code == 0 and "voc-21 (train): SegmentationClass, as downloaded" in done.stderr
    report = json.loads((tmp_path / "image/reports/prune.json").read_text())
    assert report["images"] == 6  # three photos, whole and cropped
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    guided = ("--distill", "text-guided", "--framework", "maskclip")
    assert run_cli(*line, *guided, "-o", tmp_path / "guided").exit_code == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voc-21").mkdir()  # a folder of this name is meant, unless there is a root
    assert "no image in folder" in run_cli(*line, "-o", tmp_path / "own").stderr
    refused = run_cli("prune", "tiny", "--images", "shapes", "--root", root, "-o", tmp_path / "x")
    assert refused.exit_code == 2 and "no published data set is named: --root" in refused.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_with_the_name_of_the_file_and_what_to_do(fault: str, run_cli: Any, tmp_path: Path) -> None:
    name, path, spoil, option, what, move = FAULTS[fault]
    root, benchmark = tmp_path / "data", DATASETS.load(name)
    root.mkdir()
    if fault != "unprepared":
        write_split(benchmark, benchmark.layouts[0] if name != "coco" else benchmark.layouts[1], root, "val")
    spoil(root / path)
    out = tmp_path / "report.json"
    given = (*option, root / path) if option else ()
    result = run_cli("eval", "tiny", "--dataset", name, "--root", root, "--out", out, "--quiet", *given)
    (line,) = result.stderr.strip().splitlines()
    assert result.exit_code in (1, 2) and line.startswith("opentrans: error: ") and not result.stdout
    assert what in line and move in line.rpartition(what)[2], line
    assert (str(root) in line or fault == "words") and (Path(path).stem in line or fault == "empty split"), line
    assert not out.exists() and [*tmp_path.iterdir()] == [root]
