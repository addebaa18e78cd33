"""eval of a framework of masks on single objects: its figures, and the files that it saves, for other tools."""

from __future__ import annotations

import contextlib
import io
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from panoptic_quality import read_ids, slow_means, slow_quality, write_panoptic
from PIL import Image
from safetensors.numpy import save_file

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.clip.source import load_clip
from opentrans_cli.errors import DataError, RunStopped, TrainingError
from opentrans_cli.frameworks import FRAMEWORKS
from opentrans_cli.frameworks.keys import to_original
from opentrans_cli.frameworks.original_names import FCCLIP_RULES
from opentrans_cli.metrics.mask_ap import SUMMARY
from opentrans_cli.reporter import Silent
from opentrans_cli.steps.eval.coco_files import score_coco_files
from opentrans_cli.steps.eval.evaluate import evaluate

NAMES = ("grass", "sky", "red square")
CATEGORIES = [(3, "grass", False), (5, "sky", True), (9, "red square", True)]
SHAPE, PHOTOS = (64, 96), ("12.png", "7.png", "40.png", "8.png", "9.png")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FC-CLIP with random weights."""
    torch.manual_seed(0)
    small = {"queries": 3, "width": 32, "encoder_layers": 1, "decoder_layers": 2}
    segmentor = FRAMEWORKS.load("fcclip").build(load_clip("tiny").model.visual, small)
    path = tmp_path_factory.mktemp("fcclip") / "fcclip.pth"
    torch.save({"model": to_original(dict(segmentor.state_dict()), FCCLIP_RULES)}, path)
    return path


@pytest.fixture(scope="module")
def common(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Five photos, and how the segmentor looks at them."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name in PHOTOS:
        coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        coarse.resize(SHAPE[::-1], Image.Resampling.BICUBIC).save(folder / "photos" / name)
    rows = rng.standard_normal((3, 64)).astype(np.float16)
    classes = [{"name": name, "synonyms": [name], "seen": True} for name in NAMES]
    save_file({"embeddings": rows}, folder / "pack", metadata={"opentrans": json.dumps({"classes": classes})})
    (folder / "pack").rename(folder / "pack.safetensors")
    return {
        "framework": "fcclip",
        "checkpoint": checkpoint,
        "words": folder / "pack.safetensors",
        "own_size": True,
        "images": folder / "photos",
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def found(common: dict[str, Any]) -> Path:
    """What the segmentor finds, with nothing but sky as truth."""
    folder = common["images"].parent
    everything = (np.full(SHAPE, 8, np.int32), [(8, 5)])
    truth = write_panoptic(folder / "any.json", dict.fromkeys(PHOTOS, everything), CATEGORIES)
    evaluate(**common, labels=truth, task="panoptic", save_predictions=folder / "found", out=folder / "any-report.json")
    return folder / "found"


@pytest.fixture(scope="module")
def truth(found: Path) -> Path:
    """A truth near to what is found: all a little to the side, a segment without a name, and a crowd."""
    pictures = {}
    document = json.loads((found / "panoptic.json").read_text())
    for number, entry in enumerate(document["annotations"]):
        ids = np.roll(read_ids(found / "panoptic" / entry["file_name"]), (1, number), (0, 1))
        parts = [(part["id"], part["category_id"], int(number == 1)) for part in entry["segments_info"]]
        if number == 0:
            ids[ids == parts.pop()[0]] = 0
        pictures[PHOTOS[number]] = (ids, parts)
    return write_panoptic(found.parent / "truth.json", pictures, CATEGORIES)


def test_segments_are_scored_by_the_definition_and_saved_for_other_tools(
    common: dict[str, Any], found: Path, truth: Path, tmp_path: Path, run_cli: Any
) -> None:
    line = ("eval", "--framework", "fcclip", "--checkpoint", common["checkpoint"], "--vocabulary", common["words"])
    line += ("--no-resize", "--images", common["images"], "--labels", truth, "--task", "panoptic", "--device", "cpu")
    printed = run_cli(*line, "--save-predictions", tmp_path / "saved", "--out", tmp_path / "r.json", "--json")
    assert printed.exit_code == 0, printed.stderr
    report = json.loads(printed.stdout)
    check_document(report, "eval_report")
    assert report["miou"] is not None and report["images"] == len(PHOTOS)

    known, guessed = (json.loads(path.read_text()) for path in (truth, tmp_path / "saved" / "panoptic.json"))
    images = []
    for true, guess in zip(known["annotations"], guessed["annotations"], strict=True):
        assert true["image_id"] == guess["image_id"]
        true_ids = read_ids(truth.with_suffix("") / true["file_name"])
        found_ids = read_ids(tmp_path / "saved" / "panoptic" / guess["file_name"])
        assert np.array_equal(found_ids, read_ids(found / "panoptic" / guess["file_name"]))
        parts = [(part["id"], part["category_id"], bool(part.get("iscrowd"))) for part in true["segments_info"]]
        guesses = [(part["id"], part["category_id"]) for part in guess["segments_info"]]
        for part in guess["segments_info"]:
            assert part["area"] == int((found_ids == part["id"]).sum())
        images.append((true_ids, parts, found_ids, guesses))
    slow = slow_quality(images)
    assert any(crowd for _, parts, *_ in images for *_, crowd in parts) and any((ids == 0).any() for ids, *_ in images)
    for group, classes in (("all", [3, 5, 9]), ("things", [5, 9]), ("stuff", [3])):
        scores = report["panoptic"] if group == "all" else report["panoptic"][group]
        for name, expected in slow_means(slow, classes).items():
            assert expected is not None and scores[name] == pytest.approx(expected, rel=0, abs=1e-12), (group, name)
    assert 0.1 < report["panoptic"]["pq"] < 0.99  # the truth is near, but not the same
    again = score_coco_files(tmp_path / "saved", truth, "panoptic")
    assert again["pq"] == pytest.approx(100 * report["panoptic"]["pq"], rel=0, abs=1e-12)
    assert f"{again['pq']:.1f}" in run_cli(*line).stdout

    # What `segment` writes gets the same figures, although it numbers classes and images in its own way.
    words = ("--vocabulary", common["words"], "--no-resize", "--stuff", "grass", "--task", "panoptic")
    made = run_cli("segment", *line[1:5], *words, common["images"], "-o", tmp_path / "pictures", "--device", "cpu")
    assert made.exit_code == 0, made.stderr
    assert score_coco_files(tmp_path / "pictures", truth, "panoptic") == again


def test_objects_are_scored_and_saved_as_pycocotools_scores_them(
    common: dict[str, Any], truth: Path, tmp_path: Path
) -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    masks = pytest.importorskip("pycocotools.mask")
    report = evaluate(
        **common, labels=truth, task="instance", save_predictions=tmp_path / "saved", out=tmp_path / "r.json"
    ).report
    check_document(report, "eval_report")
    known = json.loads(truth.read_text())
    document: dict[str, Any] = {"info": {}, "images": known["images"], "annotations": []}
    document["categories"] = [{"id": number, "name": name} for number, name, thing in CATEGORIES if thing]
    for entry in known["annotations"]:
        ids = read_ids(truth.with_suffix("") / entry["file_name"])
        for part in entry["segments_info"]:
            if part["category_id"] != 3:
                packed = masks.encode(np.asfortranarray(ids == part["id"], dtype=np.uint8))
                region = {"size": packed["size"], "counts": packed["counts"].decode()}
                kept = {name: part[name] for name in ("category_id", "area")}
                kept |= {"iscrowd": part.get("iscrowd", 0), "image_id": entry["image_id"], "bbox": [0, 0, 1, 1]}
                document["annotations"].append({"id": len(document["annotations"]) + 1, "segmentation": region, **kept})
    (tmp_path / "instances.json").write_text(json.dumps(document))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = coco.COCO(str(tmp_path / "instances.json"))
        results = loaded.loadRes(str(tmp_path / "saved" / "instances.json"))
        judged = cocoeval.COCOeval(loaded, results, "segm")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    for name, expected in zip(SUMMARY, judged.stats[:6], strict=True):
        assert report["instance"][name] == (None if expected == -1 else pytest.approx(expected, rel=0, abs=1e-9)), name
    assert report["instance"]["ap50"] > 0.05 and report["instance"]["per_class"][0] == {"name": "grass", "ap": None}
    again = score_coco_files(tmp_path / "saved", tmp_path / "instances.json", "instance")
    assert again["ap"] == pytest.approx(100 * report["instance"]["ap"], rel=0, abs=1e-9)
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "r.json", "instances.json"}


class Stopped(Silent):
    """A reporter under which SIGTERM comes after two pictures."""

    @contextmanager
    def bar(self, title: str, total: int, *, done: int = 0, left: object = None) -> Iterator[Callable[[str], None]]:
        seen = 0

        def advance(status: str) -> None:
            nonlocal seen
            seen += 1
            if title == "scoring" and seen == 2:
                signal.raise_signal(signal.SIGTERM)

        yield advance


def test_an_interrupted_run_goes_on_with_what_it_has_found(
    common: dict[str, Any], found: Path, truth: Path, tmp_path: Path
) -> None:
    given = {**common, "labels": truth, "task": "panoptic", "out": tmp_path / "r.json"}
    with pytest.raises(RunStopped):
        evaluate(**given, save_predictions=tmp_path / "saved", reporter=Stopped())
    assert not (tmp_path / "saved").exists()
    with pytest.raises(TrainingError, match="state of another evaluation"):
        evaluate(**{**given, "task": "instance"}, resume=True)
    evaluate(**given, save_predictions=tmp_path / "saved", resume=True)
    assert (tmp_path / "saved" / "panoptic.json").read_bytes() == (found / "panoptic.json").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "r.json"}


def test_a_run_that_fails_leaves_nothing(common: dict[str, Any], truth: Path, tmp_path: Path) -> None:
    document = json.loads(truth.read_text())
    document["annotations"][2]["segments_info"].append({"id": 77, "category_id": 3})
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(document))
    (tmp_path / "broken").symlink_to(truth.with_suffix(""))
    given = {**common, "labels": broken, "task": "panoptic", "out": tmp_path / "r.json"}
    with pytest.raises(DataError, match=r"segment 77 is only in the JSON: .*40\.png"):
        evaluate(**given, save_predictions=tmp_path / "saved")
    assert {path.name for path in tmp_path.iterdir()} == {"broken.json", "broken"}


def test_what_cannot_be_scored_is_refused_in_one_line(
    common: dict[str, Any], truth: Path, tmp_path: Path, run_cli: Any, labelled_folder: Any
) -> None:
    data = ("--images", common["images"], "--labels", truth)
    own = ("--images", labelled_folder.images, "--labels", labelled_folder.labels, "--classes", labelled_folder.classes)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    save = ("--task", "panoptic", "--save-predictions", tmp_path / "full")
    for line, says, code in (
        (("tiny", *data, "--task", "panoptic"), "maskclip finds no objects: --task panoptic", 2),
        (("tiny", *own, "--task", "instance"), "the data set tells no objects apart: folder", 1),
        (("tiny", "--task", "panoptic"), "the data set tells no objects apart: shapes", 1),
        (("tiny", *data, *save), "already exists", 1),
        (("tiny", *data, *save, "--force"), "a file that this command did not write", 1),
        (("tiny", *data, "--save-predictions", tmp_path / "new"), "add --task panoptic or instance", 2),
        (("tiny", *data, "--curve", "--task", "panoptic"), "a curve is of label maps", 2),
    ):
        refused = run_cli("eval", *line)
        assert refused.exit_code == code and says in refused.stderr, (line, refused.stderr)
        assert refused.stderr.count("\n") <= 3 and not (tmp_path / "new").exists()
