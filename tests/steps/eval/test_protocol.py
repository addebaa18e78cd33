"""The protocol of an evaluation: it says what decided the figures, and changes exactly with that."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.steps.eval.evaluate import evaluate
from opentrans_cli.steps.segment.pack_words import pack_words
from opentrans_cli.steps.segmentors.words import Words

WORDS = [["grass"], ["red square", "red box"], ["blue square"]]


@pytest.fixture
def scored(labelled_folder: Any) -> Any:
    """Scores the embedded CLIP on two pictures with changed options; gives the report."""

    def run(source: str | Path = "tiny", **changes: Any) -> dict[str, Any]:
        given = {"images": labelled_folder.images, "labels": labelled_folder.labels, "limit": 2}
        given |= {"classes": labelled_folder.classes, "dataset": "folder", "device": "cpu", **changes}
        report = evaluate(source, **given).report
        check_document(report, "eval_report")
        return report

    return run


def test_it_says_words_prompts_and_rules(scored: Any, labelled_folder: Any) -> None:
    report = scored()
    protocol = report["protocol"]
    assert protocol["classes"] == WORDS and protocol["templates"] == ["{}", "the {}", "a photo of the {}"]
    for name in ("classes", "templates"):
        text = json.dumps(protocol[name], indent=2) + "\n"
        assert protocol[f"{name}_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert protocol["words_from"] == {"kind": "data set", "file": None, "sha256": None}
    rules = {name: protocol[name] for name in ("synonyms", "ignored_ids", "absent", "resolution", "split", "images")}
    assert rules == {
        "synonyms": "maximum",
        "ignored_ids": [255],
        "absent": "exclude",
        "resolution": None,
        "split": "val",
        "images": 2,
    }
    assert (protocol["data"], protocol["seen_from"]) == (report["data"], "data set")
    assert report["environment"].keys() >= {"opentrans", "torch", "python", "device"}


def test_other_words_ids_and_pictures_are_another_protocol(scored: Any, labelled_folder: Any, tmp_path: Path) -> None:
    usual = scored()["protocol"]

    def changed(**options: Any) -> set[str]:
        protocol = scored(**options)["protocol"]
        return {name for name in usual if protocol[name] != usual[name]}

    other = tmp_path / "other.txt"
    other.write_text("meadow\nred square, red box\nblue square\n")
    assert changed(words=other) == {"classes", "classes_sha256", "words_from"}
    assert changed(words=Vocabulary(tuple(map(tuple, WORDS)))) == {"words_from"}
    assert changed(limit=1) == {"images", "data"}
    assert changed(ignore=(255, 7)) == {"ignored_ids", "data"}
    assert changed(seen=other) == {"seen_from"}
    assert changed(absent="zero") == {"absent"}
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    named = scored(words=other)["protocol"]["words_from"]
    assert named == {"kind": "class file", "file": "other.txt", "sha256": digest}


def test_words_of_a_published_data_set_are_of_no_file() -> None:
    words = Words.of(Path("cityscapes"))
    assert (words.origin, words.file, words.sha256, len(words.vocabulary)) == ("data set", None, None, 19)


def test_a_pack_hands_on_its_prompts_and_one_of_others_says_nothing_of_them(scored: Any, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file

    vocabulary, pack = Vocabulary(tuple(map(tuple, WORDS))), tmp_path / "pack.safetensors"
    pack_words("tiny", vocabulary, out=pack, framework="fcclip")
    protocol = scored(words=pack)["protocol"]
    assert len(protocol["templates"]) == 14 and "a photo of a small {}." in protocol["templates"]
    assert protocol["classes"] == WORDS and protocol["words_from"]["kind"] == "vocabulary pack"
    assert protocol["seen_from"] == "vocabulary pack"
    with safe_open(pack, "numpy") as file:
        about = json.loads(file.metadata()["opentrans"])
    del about["templates"]
    save_file(load_file(pack), pack, metadata={"opentrans": json.dumps(about)})
    protocol = scored(words=pack)["protocol"]
    assert protocol["templates"] is protocol["templates_sha256"] is None and protocol["synonyms"] == "maximum"


def test_a_class_is_seen_by_any_of_its_words(scored: Any, tmp_path: Path) -> None:
    labelled = tmp_path / "labelled.txt"
    labelled.write_text("RED BOX\nsomething else\n")
    report = scored(seen=labelled)
    assert [entry["seen"] for entry in report["per_class"]] == [False, True, False]
    assert report["miou_seen"] == report["per_class"][1]["iou"]


def test_what_a_bundle_was_trained_on_decides_for_it(tiny_segmentor: Path, scored: Any, tmp_path: Path) -> None:
    protocol = scored(tiny_segmentor, out=tmp_path / "r.json")["protocol"]
    assert protocol["seen_from"] == "bundle"
