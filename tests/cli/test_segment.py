"""segment: the report as JSON, the files, and how words are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.datasets.images import read_label_map


def test_json_is_the_report_of_the_contract_and_names_the_files(
    run_cli: Any, desk: Path, segmentor: Path, labelled_folder: Any
) -> None:
    line = ("segment", segmentor, labelled_folder.images, "-w", "red square, grass", "-o", desk / "s", "--json")
    document = json.loads(run_cli(*line).stdout)
    check_document(document, "segment_report")
    assert document["vocabulary"] == ["red square", "grass"] and len(document["images"]) == 6
    named = {image[kind] for image in document["images"] for kind in ("label_map", "overlay")}
    assert {path.name for path in (desk / "s").iterdir()} == named | {"segment.json"}
    assert json.loads((desk / "s" / "segment.json").read_text()) == document


def test_shares_are_those_of_the_written_label_map(
    run_cli: Any, desk: Path, segmentor: Path, labelled_folder: Any
) -> None:
    line = ("segment", segmentor, labelled_folder.images, "-w", "red square,grass,sky", "-o", desk / "s", "--json")
    document = json.loads(run_cli(*line).stdout)
    for image in document["images"]:
        ids = read_label_map(desk / "s" / image["label_map"])
        assert ids.shape == (64, 64) and ids.max() < 3
        shares = {word: float((ids == index).mean()) for index, word in enumerate(document["vocabulary"])}
        assert image["classes"] == pytest.approx({word: share for word, share in shares.items() if share}, abs=1e-6)
        with Image.open(desk / "s" / image["overlay"]) as overlay:
            assert overlay.width >= 64


def test_a_class_file_says_the_same_as_words(run_cli: Any, desk: Path, segmentor: Path, labelled_folder: Any) -> None:
    photo = labelled_folder.images / "0.png"
    (desk / "words.txt").write_text("red square\ngrass\n")
    run_cli("segment", segmentor, photo, "--classes", desk / "words.txt", "-o", desk / "a")
    run_cli("segment", segmentor, photo, "-w", " red square ,grass", "-o", desk / "b")
    for name in ("0.png", "0-overlay.png", "segment.json"):
        assert (desk / "a" / name).read_bytes() == (desk / "b" / name).read_bytes()


@pytest.mark.parametrize("words", [(), ("-w", "a", "--classes", "c.txt")], ids=["neither", "both"])
def test_words_and_a_class_file_exclude_each_other(words: tuple[str, ...], run_cli: Any, desk: Path) -> None:
    result = run_cli("segment", "tiny", desk, "-o", desk / "s", *words)
    assert (result.exit_code, result.stdout) == (2, "") and "give exactly one" in result.stderr


def test_images_of_one_name_from_two_folders_are_kept_apart(run_cli: Any, desk: Path, labelled_folder: Any) -> None:
    for name in ("left", "right"):
        (desk / name).mkdir()
        (desk / name / "a.png").write_bytes((labelled_folder.images / "0.png").read_bytes())
    line = ("segment", "tiny", desk / "left", desk / "right", "-w", "red,green", "-o", desk / "s", "--json")
    document = json.loads(run_cli(*line).stdout)
    assert [image["name"] for image in document["images"]] == ["left-a", "right-a"]
