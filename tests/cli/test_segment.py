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


def test_a_broken_picture_ends_in_exit_code_1_with_the_rest_written(
    run_cli: Any, desk: Path, labelled_folder: Any
) -> None:
    (labelled_folder.images / "3.png").write_bytes(b"no picture")
    line = ("segment", "tiny", labelled_folder.images, "-w", "red,green")
    result = run_cli(*line, "-o", desk / "s", "--json", "--quiet")
    document = json.loads(result.stdout)
    check_document(document, "segment_report")
    assert [image["name"] for image in document["images"]] == ["0", "1", "2", "4", "5"]
    wrong = f"image cannot be read: {labelled_folder.images / '3.png'}"
    assert document["skipped"] == [wrong] and result.exit_code == 1
    assert result.stderr.startswith(f"opentrans: error: 1 of 6 images are not labelled: {wrong}; ")
    passed = run_cli(*line, "-o", desk / "t", "--skip-bad")
    assert (passed.exit_code, passed.stdout.strip()) == (0, str(desk / "t"))
    assert f"skipped: {wrong}" in passed.stderr
    assert (desk / "s/segment.json").read_bytes() == (desk / "t/segment.json").read_bytes()


def test_a_list_on_stdin_is_what_its_paths_are(
    run_cli: Any, desk: Path, labelled_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = sorted(labelled_folder.images.iterdir())[:2]

    def listed(text: str, *more: object) -> Any:
        monkeypatch.setattr("opentrans_cli.cli.segment._stdin", text.encode)
        return run_cli("segment", "tiny", *more, "-w", "red,green", "-o", desk / "s", "--quiet")

    assert listed("\n".join(map(str, photos)), "-").exit_code == 0
    assert {path.name for path in (desk / "s").glob("?.png")} == {"0.png", "1.png"}
    result = listed(f"{photos[0]}\nnowhere.png\n", "-", photos[1])
    assert result.exit_code == 1 and "no such image or folder: nowhere.png (line 2 of stdin)" in result.stderr
    assert listed("", "-", "-").exit_code == 2
