"""Pictures, label maps and class files that cannot be used, and places that cannot be written: one line each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DISTIL = ("--images", "shapes", "--image-limit", 4, "--batch-size", 2, "--steps-per-round", 1, "--final-steps", 1)
SHORT = ("--steps", 1, "--batch-size", 2, "--crop", 64, "--limit", 2)


def test_distilling_on_no_photos(refused: Any, desk: Path) -> None:
    (desk / "photos").mkdir()
    line = ("prune", "tiny", "-s", 0.5, "--batch-size", 2, "-o", desk / "b", "--images")
    assert refused(*line, desk / "none").startswith(f"images not found: {desk / 'none'}; give a folder")
    assert f"no image in folder: {desk / 'photos'}" in refused(*line, desk / "photos")


@pytest.fixture(params=["no image", "truncated JPEG"])
def bad_photo(request: pytest.FixtureRequest, labelled_folder: Any) -> Path:
    """One of the photos of the data set, damaged."""
    path: Path = labelled_folder.images / "0.png"
    with Image.open(path) as photo:
        photo.save(path.with_suffix(".jpg"), quality=95)
    path.unlink()
    path = path.with_suffix(".jpg")
    data = path.read_bytes()
    path.write_bytes(b"not a picture" if request.param == "no image" else data[: len(data) // 2])
    return path


def test_a_damaged_photo_in_every_command_that_reads_photos(
    bad_photo: Path, refused: Any, desk: Path, bundle: Path, labelled_folder: Any
) -> None:
    for line in (
        ("prune", "tiny", "-s", 0.5, "--batch-size", 2, "--images", labelled_folder.images, "-o", desk / "b"),
        ("finetune", bundle, "--steps", 9, "--batch-size", 2, "--crop", 64, *labelled_folder.options, "-o", desk / "f"),
        ("eval", "tiny", *labelled_folder.options, "--out", desk / "r.json"),
        ("segment", "tiny", bad_photo, "-w", "red,green", "-o", desk / "s"),
    ):
        alone = ", or skip it and others with --skip-bad" if line[0] != "segment" else ""
        remedy = f"replace it{alone.removeprefix(',') if line[0] == 'prune' else alone}"
        assert refused(*line) == f"image cannot be read: {bad_photo}; it is damaged or no picture, {remedy}"


def test_an_image_smaller_than_the_tower_can_see(refused: Any, desk: Path) -> None:
    Image.new("RGB", (40, 31)).save(desk / "small.png")
    message = refused("segment", "tiny", desk / "small.png", "-w", "red", "-o", desk / "s")
    assert f"smaller than the tower's stride of 32: {desk / 'small.png'} (40 x 31)" in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("grass\nred square\nGrass\n", "'Grass' names two classes"),
        ("", "class file is empty"),
        ("# nothing\n\n", "class file is empty"),
        ("grass\nred,,square\nblue\n", "empty class name"),
        (None, "class file not found"),
    ],
)
def test_a_class_file(text: str | None, named: str, refused: Any, desk: Path, labelled_folder: Any) -> None:
    labelled_folder.classes.unlink()
    if text is not None:
        labelled_folder.classes.write_text(text)
    for line in (
        ("eval", "tiny", *labelled_folder.options),
        ("segment", "tiny", labelled_folder.images, "--classes", labelled_folder.classes, "-o", desk / "s"),
    ):
        message = refused(*line)
        assert named in message and str(labelled_folder.classes) in message


@pytest.mark.parametrize("words", ["", " , ", "cat,dog,Cat", "cat;dog", "cat\ndog", "words.txt"])
def test_words_that_are_none_repeated_or_a_file(words: str, refused: Any, desk: Path, labelled_folder: Any) -> None:
    message = refused("segment", "tiny", labelled_folder.images, f"--words={words}", "-o", desk / "s")
    assert "; " in message  # the next move


def test_label_ids_without_a_class(refused: Any, desk: Path, bundle: Path, labelled_folder: Any) -> None:
    labelled_folder.classes.write_text("grass\n")
    message = refused("eval", "tiny", *labelled_folder.options)
    assert message.startswith("id 1 has no class (") and "; pass --ignore 1,255 if they are not labelled" in message
    line = ("finetune", bundle, "--steps", 9, "--batch-size", 2, "--crop", 64, *labelled_folder.options)
    assert "id 1 has no class (" in refused(*line, "-o", desk / "f")


def test_a_label_map_of_another_size(refused: Any, desk: Path, bundle: Path, labelled_folder: Any) -> None:
    path = labelled_folder.labels / "0.png"
    Image.new("L", (32, 48)).save(path)
    expected = f"image is 64x64 but its label map 32x48: {path}"
    assert refused("eval", "tiny", *labelled_folder.options).startswith(expected)
    line = ("finetune", bundle, "--steps", 9, "--batch-size", 2, "--crop", 64, *labelled_folder.options)
    assert refused(*line, "-o", desk / "f").startswith(expected)


def test_images_and_label_maps_that_do_not_pair(refused: Any, labelled_folder: Any) -> None:
    (labelled_folder.labels / "3.png").unlink()
    message = refused("eval", "tiny", *labelled_folder.options)
    assert message.startswith("1 images have no label map: first '3'")
    shutil.rmtree(labelled_folder.labels)
    assert "folder not found" in refused("eval", "tiny", *labelled_folder.options)


def test_holding_out_what_is_no_class_or_every_class(
    refused: Any, desk: Path, bundle: Path, labelled_folder: Any
) -> None:
    for line in (("eval", "tiny"), ("finetune", bundle, *SHORT, "-o", desk / "f")):
        message = refused(*line, *labelled_folder.options, "--hold-out", "elephant")
        assert message == "held-out class is not in the class list: 'elephant'; correct --hold-out"
    line = ("finetune", bundle, *SHORT, "-o", desk / "f", *labelled_folder.options)
    message = refused(*line, "--hold-out", "grass,red square,blue square", code=2)
    assert message.startswith("nothing to train on") and "--hold-out" in message


# Places that cannot be written.


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("command", ["prune", "finetune", "eval"])
def test_a_folder_without_write_permission(command: str, refused: Any, desk: Path, bundle: Path) -> None:
    locked = desk / "locked"
    locked.mkdir(mode=0o500)
    line = {
        "prune": ("prune", "tiny", "-s", 0.1, *DISTIL, "-o", locked / "b"),
        "finetune": ("finetune", bundle, *SHORT, "-o", locked / "f"),
        "eval": ("eval", "tiny", "--limit", 1, "--out", locked / "r.json"),
    }[command]
    assert str(locked) in refused(*line)


def test_what_is_there_is_told_by_every_command_in_the_same_words_before_it_works(
    refused: Any, desk: Path, bundle: Path
) -> None:
    """Exit code 1, and the same line whether a file or a folder lies there; with --force no foreign file is touched."""
    there = desk / "there"
    words = ("-w", "red,green")
    lines: dict[str, tuple[object, ...]] = {
        "prune": ("prune", "tiny", "-o", there),
        "import": ("import", bundle / "weights.safetensors", "-o", there),
        "analyze --out": ("analyze", "tiny", "-o", there),
        "transfer": ("transfer", bundle, "-o", there),
        "transfer --to open-clip": ("transfer", bundle, "--to", "open-clip", "-o", there),
        "finetune": ("finetune", bundle, *SHORT, "-o", there),
        "segment": ("segment", "tiny", bundle / "manifest.json", *words, "-o", there),
        "demo": ("demo", "-o", there),
        "pull": ("pull", "org/name", "-o", there),
    }
    files = {
        "analyze --plot": ("--plot", ("analyze", "tiny"), ".png"),
        "transfer --to onnx": ("--out", ("transfer", bundle, "--to", "onnx", *words), ".onnx"),
        "transfer --checkpoint": ("--out", ("transfer", bundle, "--checkpoint", bundle / "no.pth"), ".pth"),
        "eval": ("--out", ("eval", "tiny", "--limit", 1), ".json"),
        "eval --curve": ("--out", ("eval", bundle, "--curve"), ".json"),
        "report": ("--out", ("report", bundle), ".html"),
        "segment --save-scores": ("--save-scores", ("segment", "tiny", bundle / "manifest.json", *words), ".npy"),
        "segment --save-vocabulary": ("--save-vocabulary", ("segment", "tiny", *words), ".safetensors"),
    }
    there.mkdir()
    (there / "letter.txt").write_text("mine")
    said = "choose another {}, or pass --force to replace it"
    for name, line in lines.items():
        assert refused(*line) == f"already exists: {str(there)!r}; {said.format('--out')}", name
        assert refused(*line, "--force").startswith("holds a file that this command did not write: "), name
    shutil.rmtree(there)
    there.write_text("mine")
    for name, line in lines.items():
        assert refused(*line, "--force") == f"not a folder: {str(there)!r}; choose another --out", name
    for name, (option, line, suffix) in files.items():
        (file := desk / f"file{suffix}").write_text("mine")
        (folder := desk / f"folder{suffix}").mkdir(exist_ok=True)
        assert refused(*line, option, file) == f"already exists: {str(file)!r}; {said.format(option)}", name
        assert refused(*line, option, folder, "--force") == f"not a file: {str(folder)!r}; choose another {option}", (
            name
        )


# Options; every range and every choice is tried in tests/test_option.py.


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--pattern", "checkers"), "unknown pattern: 'checkers'; choose one of unstructured"),
        (("--device", "tpu"), "device is not available here: 'tpu'; choose auto or one of cpu"),
        (("--sparsity", "nan"), "out of range: --sparsity nan; give 0 or more, below 1"),
        (("--dtype", "int8"), "unknown dtype: 'int8'; choose one of float32, float16, bfloat16"),
        (("--batch-size", 5), "fewer images than --batch-size: 4 < 5"),
    ],
)
def test_options_of_prune(options: tuple[Any, ...], named: str, refused: Any, desk: Path) -> None:
    assert named in refused("prune", "tiny", "-s", 0.5, *DISTIL, *options, "-o", desk / "b", code=2)


def test_like_without_random_and_twins_of_something_else(refused: Any, desk: Path, tiny_bundle: Path) -> None:
    out = ("-o", desk / "b")
    assert "add --random" in refused("prune", "tiny", "-s", 0.5, "--like", tiny_bundle, *out, code=2)
    twin = ("prune", "tiny", "--random", "--like")
    assert "not the run this control is of" in refused(*twin, tiny_bundle, "-s", 0.6, *out, code=2)
    assert "not the run this control is of" in refused(*twin, tiny_bundle, "-s", 0.5, *DISTIL, *out, code=2)
    assert "no such bundle" in refused(*twin, desk / "none", "-s", 0.5, *out)
    assert "starts from the dense tower" in refused("prune", tiny_bundle, "-s", 0.9, "--random", *out, code=2)
    assert "source is sparser than the target" in refused("prune", tiny_bundle, "-s", 0.4, *out, code=2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--to", "fcn"), "unknown target: 'fcn'"),
        (("--option", "colour=red"), "deeplabv3 has no option: 'colour'; choose from output_stride"),
        (("--option", "output_stride=7"), "deeplabv3 has no output stride: 7; choose 8, 16 or 32"),
        (("--option", "output_stride=many"), "wrong value for deeplabv3 output_stride: 'many'"),
        (("--option", "output_stride"), "not NAME=VALUE: --option output_stride"),
    ],
)
def test_options_of_transfer(options: tuple[Any, ...], named: str, refused: Any, desk: Path, bundle: Path) -> None:
    assert named in refused("transfer", bundle, *options, "-o", desk / "t", code=2)


def test_a_demo_is_short_or_full(refused: Any, desk: Path) -> None:
    line = refused("demo", "--full", "--quick", "-o", desk / "d", code=2)
    assert line.startswith("a demo is short or full: --full with --quick")
