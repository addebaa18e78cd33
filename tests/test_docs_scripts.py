"""The scripts of the documents run from start to end with tiny sizes, through a real shell."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.bundle.verify.verify import verify_bundle
from opentrans_cli.datasets.images import read_label_map

DOCS = Path(__file__).parents[1] / "docs"
TINY_SIZES = {
    "RATE": "0.9",  # one round
    "DISTILL_IMAGES": "8",
    "DISTILL_BATCH": "4",
    "STEPS_PER_ROUND": "1",
    "FINAL_STEPS": "2",
    "STEPS": "2",
    "BATCH_SIZE": "2",
    "SCENES": "3",
}
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")


def check_pictures(folder: Path, *, count: int) -> dict[str, Any]:
    """The report of `segment`, once its label maps are known to hold nothing but the vocabulary."""
    report: dict[str, Any] = json.loads((folder / "segment.json").read_text())
    check_document(report, "segment_report")
    assert len(report["images"]) == count
    for image in report["images"]:
        assert read_label_map(folder / image["label_map"]).max() < len(report["vocabulary"])
        assert (folder / image["overlay"]).is_file()
    return report


def test_the_pipeline_goes_from_the_embedded_model_to_a_picture(tmp_path: Path, shell: Any) -> None:
    done = shell.run(DOCS / "pipeline.sh", "out", **TINY_SIZES)
    tmp_path /= "work"
    assert done.returncode == 0, done.stderr
    assert done.stdout == "out/finetuned\nout/words\n"
    folders = [tmp_path / "out" / name for name in ("subnet", "deeplabv3", "finetuned")]
    assert all(check.ok for folder in folders for check in verify_bundle(folder))
    trained = open_bundle(folders[-1])
    assert [step.verb for step in trained.manifest.steps] == ["prune", "analyze", "transfer", "finetune", "eval"]
    assert trained.manifest.achieved_sparsity == pytest.approx(0.9, abs=1e-6)
    masks = [open_bundle(folder).masks() for folder in folders]
    assert all(np.array_equal(other[layer], kept) for layer, kept in masks[0].items() for other in masks[1:])
    words = ["orange ring", "yellow crescent", "water", "sand"]
    assert check_pictures(tmp_path / "out" / "words", count=1)["vocabulary"] == words


def test_own_photos_are_pruned_on_trained_on_scored_and_drawn(tmp_path: Path, labelled_folder: Any, shell: Any) -> None:
    for name, stems in (("train", "0123"), ("val", "45")):
        (tmp_path / f"{name}.txt").write_text("\n".join(stems))
    where = labelled_folder.images, labelled_folder.labels, labelled_folder.classes
    lists = tmp_path / "train.txt", tmp_path / "val.txt"
    options = {"SOURCE": "tiny", "OUT": "my photos", "HOLD_OUT": "blue square"}
    done = shell.run(DOCS / "own-photos.sh", *where, 255, *lists, **TINY_SIZES, **options)
    tmp_path /= "work"
    assert done.returncode == 0, done.stderr
    assert done.stdout == "my photos/finetuned\nmy photos/pictures\n"
    trained = open_bundle(tmp_path / "my photos" / "finetuned")
    assert all(check.ok for check in verify_bundle(trained.path))
    assert trained.manifest.segmentor is not None
    assert trained.manifest.segmentor.seen == ("grass", "red square")
    report = json.loads(trained.read("reports/eval-folder.json"))
    assert report["images"] == 2 and report["miou_unseen"] is not None
    check_pictures(tmp_path / "my photos" / "pictures", count=6)


def test_own_photos_without_the_three_folders_says_how_it_is_used(shell: Any) -> None:
    done = shell.run(DOCS / "own-photos.sh", "photos")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("usage: ") and "IMAGES LABELS CLASSES" in done.stderr
