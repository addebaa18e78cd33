"""segment: a label for every pixel of any picture, all or nothing."""

from __future__ import annotations

import gzip
import json
import os
import re
import tarfile
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.datasets.images import read_label_map
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError, OpentransError, OptionError, OutputError, PictureError
from opentrans_cli.pictures.legend import percentage
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.segment.inputs import find_inputs, listed_paths
from opentrans_cli.steps.segment.segment import segment
from opentrans_cli.steps.segmentors.words import Words

Content = Callable[[Path], dict[str, bytes]]
WORDS = Vocabulary.from_names(["grass", "red square,red box", "blue square"])


def test_every_pixel_of_any_size_gets_one_of_the_words(tiny_segmentor: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [(32, 32), (50, 77), (64, 200), (97, 33)]
    for height, width in sizes:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        image.save(tmp_path / f"{height}x{width}.png")
    result = segment(
        str(tiny_segmentor), images=sorted(tmp_path.glob("*.png")), out=tmp_path / "s", device="cpu", words=WORDS
    )
    for height, width in sizes:
        label_map = read_label_map(tmp_path / "s" / f"{height}x{width}.png")
        assert label_map.shape == (height, width)
        assert 0 <= label_map.min() <= label_map.max() < 3
    for entry in result.images:
        assert sum(entry["classes"].values()) == pytest.approx(1, abs=1e-5)
        assert list(entry["classes"].values()) == sorted(entry["classes"].values(), reverse=True)


def test_grey_deep_transparent_and_turned_pictures_are_read_as_they_look(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60), dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 65536, (40, 60)).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(rng.integers(0, 256, (40, 60, 4), dtype=np.uint8)).save(tmp_path / "clear.png")
    turned = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    segment("tiny", images=[tmp_path], out=tmp_path / "s", device="cpu", words=WORDS)
    shapes = {
        name: read_label_map(tmp_path / "s" / f"{name}.png").shape for name in ("grey", "deep", "clear", "turned")
    }
    assert shapes == {"grey": (40, 60), "deep": (40, 60), "clear": (40, 60), "turned": (60, 40)}


def test_the_same_run_writes_the_same_bytes(
    tiny_segmentor: Path, labelled_folder: Any, tmp_path: Path, content: Content
) -> None:
    for name in ("one", "two"):
        segment(str(tiny_segmentor), images=[labelled_folder.images], out=tmp_path / name, device="cpu", words=WORDS)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_gallery_tells_every_picture_leads_to_every_file_and_goes_with_its_folder(
    tiny_segmentor: Path, labelled_folder: Any, tmp_path: Path, run_cli: Any
) -> None:
    out = tmp_path / "made" / "s"
    line = ("segment", tiny_segmentor, labelled_folder.images, "-w", "grass, red <b>square</b>", "-o", out, "--gallery")
    for more in ((), ("--force", "--no-overlay")):
        assert run_cli(*line, *more, "-q").exit_code == 0
        document = json.loads((out / "segment.json").read_text())
        check_document(document, "segment_report")
        page = (out / "gallery.html").read_text()
        links = {(out / unquote(link)).resolve() for link in re.findall(r'href="([^"]+)"', page)}
        photos = {(out / entry["photo"]).resolve() for entry in document["images"]}
        shown = {(out / entry.get("overlay", entry["label_map"])).resolve() for entry in document["images"]}
        assert photos == set(labelled_folder.images.iterdir()) and links == photos | shown
        text = " ".join(unescape(re.sub("<[^>]*>", " ", page)).split())
        for entry in document["images"]:
            classes = (f"{name} {percentage(share)}" for name, share in entry["classes"].items())
            assert f"{entry['name']} photo labels {' '.join(classes)}" in text
    with pytest.raises(OptionError, match="--gallery; add --out"):
        segment("tiny", images=labelled_folder.images, words="grass", save_scores=tmp_path / "s.npy", gallery=True)


def test_the_order_of_words_only_renumbers_the_label_map(labelled_folder: Any, tmp_path: Path) -> None:
    order = [2, 0, 1]
    turned = Vocabulary(tuple(WORDS.classes[index] for index in order))
    for name, vocabulary in {"a": WORDS, "b": turned}.items():
        segment("tiny", images=[labelled_folder.images], out=tmp_path / name, device="cpu", words=vocabulary)
    for path in sorted(labelled_folder.images.iterdir()):
        straight, renumbered = (read_label_map(tmp_path / name / path.name) for name in "ab")
        assert (np.array(order)[renumbered] == straight).mean() > 0.999  # ties of rounding aside


def test_words_are_found_where_they_are_painted(tmp_path: Path) -> None:
    """The embedded CLIP knows colours; what it was not trained on at all would be no test of the plumbing."""
    from opentrans_cli.datasets.shapes import ShapesDataset

    scenes = ShapesDataset("val", size=96, count=8)
    names = scenes.vocabulary.names
    right, by_chance = 0, 0.0
    for index in range(8):
        sample = scenes[index]
        assert sample.label_map is not None
        present = [int(i) for i in np.unique(sample.label_map)]
        Image.fromarray(sample.image).save(tmp_path / "scene.png")
        vocabulary = Vocabulary.from_names([names[i] for i in present])
        segment("tiny", images=[tmp_path / "scene.png"], out=tmp_path / f"s{index}", device="cpu", words=vocabulary)
        found = np.array(present)[read_label_map(tmp_path / f"s{index}" / "scene.png")]
        right += int((found == sample.label_map).sum())
        by_chance += found.size / len(present)
    assert right > by_chance


def test_bad_pictures_are_named_and_do_not_stop_the_rest(labelled_folder: Any, tmp_path: Path) -> None:
    bad, late, small = (labelled_folder.images / name for name in ("9.png", "8.jpg", "7.png"))
    Image.new("RGB", (31, 99)).save(small)
    bad.write_bytes(b"no picture")
    Image.effect_noise((300, 300), 99).save(late)
    late.write_bytes(late.read_bytes()[:200] + b"\xff\xd9")  # only decoding shows what is wrong with it
    result = segment("tiny", images=labelled_folder.images, out=tmp_path / "s", device="cpu", words=WORDS)
    assert sorted(result.skipped) == sorted(
        (
            f"image cannot be read: {bad}",
            f"image cannot be read: {late}",
            f"image is smaller than the tower's stride of 32: {small} (31 x 99)",
        )
    )
    assert [image["name"] for image in result.images] == [str(number) for number in range(6)]
    assert json.loads((tmp_path / "s/segment.json").read_text()) == result.to_json()
    assert result.to_json()["skipped"] == list(result.skipped)
    with pytest.raises(DataError, match="no image is left: 2 are bad, first: image cannot be read"):
        segment("tiny", images=[bad, late], out=tmp_path / "t", words=WORDS)
    with pytest.raises(PictureError, match=r"image cannot be read: .*9\.png; it is damaged"):
        segment("tiny", images=bad, out=tmp_path / "t", words=WORDS)
    assert not (tmp_path / "t").exists()


def test_all_that_can_be_wrong_with_the_input_is_said_before_a_model_is_loaded(
    labelled_folder: Any, tmp_path: Path
) -> None:
    """The model does not exist, and no line says so."""
    photo = labelled_folder.images / "0.png"
    (tmp_path / "there").mkdir()
    good = {"images": photo, "words": WORDS, "out": tmp_path / "s"}
    for wrong, message in (
        ({"images": tmp_path / "fotos"}, "no such image or folder: .*fotos"),
        ({"images": [photo, photo]}, "image given twice"),
        ({"images": labelled_folder.classes}, "image cannot be read"),
        ({"words": "cat,cat"}, "names two classes"),
        ({"words": tmp_path / "no.txt"}, "class file not found"),
        ({"seen": tmp_path / "no.txt"}, "class file not found"),
        ({"stuff": ("sky",)}, "not a class of the vocabulary"),
        ({"out": tmp_path / "there"}, "already exists"),
        ({"out": photo / "s"}, "cannot write"),
    ):
        with pytest.raises(OpentransError, match=message):
            segment("no-such-model", **{**good, **wrong})


def test_outputs_have_names_of_their_own_and_no_output_is_an_input(tmp_path: Path) -> None:
    photo = Image.new("RGB", (40, 40), "green")
    for name in ("a.jpg", "a.png", "A-overlay.png", "sub/a.jpg", "b.jpg", "sub-b.png", "sub/b.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        photo.save(tmp_path / "photos" / name)
    first = segment("tiny", images=tmp_path / "photos", out=tmp_path / "photos/first", words=WORDS)
    names = [image["name"] for image in first.images]
    written = [image[kind].casefold() for image in first.images for kind in ("label_map", "overlay")]
    assert len(set(written)) == len(written) == len([*(tmp_path / "photos/first").glob("*.png")])
    again = segment("tiny", images=tmp_path / "photos", out=tmp_path / "photos/second", words=WORDS)
    assert [image["name"] for image in again.images] == names


def test_label_maps_hold_the_ids_of_the_class_file(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "green").save(tmp_path / "a.png")
    (tmp_path / "c.txt").write_text("7:grass\n300:red square\n")
    (tmp_path / "d.txt").write_text("grass\nred square\n")
    found = {}
    for name in ("c", "d"):
        result = segment("tiny", images=tmp_path / "a.png", out=tmp_path / name, words=tmp_path / f"{name}.txt")
        found[name] = read_label_map(result.path / "a.png")
        assert result.to_json()["ids"] == ([7, 300] if name == "c" else [0, 1])
    assert np.array_equal(found["c"], np.array([7, 300])[found["d"]])


def test_the_background_takes_pixels_and_changes_no_other_winner(labelled_folder: Any, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("7:grass\n300:red square\n")
    given = {"images": labelled_folder.images, "words": tmp_path / "ids.txt", "device": "cpu"}
    plain = segment("tiny", out=tmp_path / "plain", **given)
    words = segment("tiny", out=tmp_path / "words", background=True, **given)
    unsure = segment("tiny", out=tmp_path / "unsure", threshold=0.9, overlay=False, **given)
    assert "background" not in plain.to_json()
    for result in (words, unsure):
        report = result.to_json()
        check_document(report, "segment_report")
        assert (report["background"], report["ids"], report["vocabulary"][2:]) == (301, [7, 300, 301], ["background"])
        taken = 0
        for image in report["images"]:
            before = read_label_map(plain.path / image["label_map"])
            after = read_label_map(result.path / image["label_map"])
            taken += int((after == 301).sum())
            assert np.array_equal(after[after != 301], before[after != 301])
            for area in image["areas"]:
                assert (after == area["id"]).sum() == area["area"]
            assert sum(area["area"] for area in image["areas"]) == image["height"] * image["width"] == after.size
            assert ("overlay" in image) is (result is words)
        assert 0 < taken < 6 * 64 * 64
    assert {path.name for path in unsure.path.iterdir()} == {f"{number}.png" for number in range(6)} | {"segment.json"}
    for wrong, message in (
        ({"words": "a, background", "background": True}, "a class of yours is the background"),
        ({"threshold": 0.0}, "no probability: --threshold 0"),
        ({"background": True, "task": "panoptic"}, "objects have no background: --background"),
        ({"window": 64, "task": "instance"}, "objects may reach over windows"),
        ({"overlap": 0.5}, "only windows overlap: --overlap 0.5; add --window"),
        ({"window": 63}, "out of range: --window 63; give 64 or more"),
    ):
        with pytest.raises(OpentransError, match=message):
            segment("tiny", out=tmp_path / "x", **{**given, **wrong})


def test_a_published_data_set_names_its_classes_and_a_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = Words.of(Path("voc-20"))
    assert (words.vocabulary.names[0], words.ids, len(words.vocabulary)) == ("aeroplane", tuple(range(1, 21)), 20)
    with pytest.raises(DataError, match=r"class file not found: ade-150; .* cityscapes, .*did you mean ade20k-150\?"):
        Words.of(Path("ade-150"))
    Path("voc-20").write_text("cat\n")
    assert Words.of(Path("voc-20")).vocabulary.names == ("cat",)


def test_force_replaces_an_earlier_run_but_no_other_file(labelled_folder: Any, tmp_path: Path) -> None:
    def run(count: int, *, force: bool = False) -> None:
        photos = sorted(labelled_folder.images.iterdir())[:count]
        segment("tiny", images=photos, out=tmp_path / "s", device="cpu", force=force, words=WORDS)

    run(2)
    with pytest.raises(OutputError, match="already exists"):
        run(1)
    run(1, force=True)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["0-overlay.png", "0.png", "segment.json"]
    (tmp_path / "s" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds a file that this command did not write: .*notes\.txt"):
        run(1, force=True)
    assert (tmp_path / "s" / "notes.txt").read_text() == "mine"


def test_words_in_brackets_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    for words in ('["grass", "red square"]', " {grass, water}", "grass, water]"):
        with pytest.raises(DataError, match=r"words in brackets: .*; give words and commas alone"):
            segment("tiny", images=tmp_path / "a.png", words=words, out=tmp_path / "out")


def test_shards_give_what_their_pictures_give(labelled_folder: Any, tmp_path: Path) -> None:
    files = sorted(labelled_folder.images.iterdir())
    (tmp_path / "shards").mkdir()
    for number in range(2):
        with tarfile.open(tmp_path / f"shards/{number}.tar", "w") as shard:
            for place, path in enumerate(files[3 * number : 3 * number + 3]):
                shard.add(path, f"{place}.png")
    segment("tiny", images=labelled_folder.images, out=tmp_path / "a", device="cpu", words=WORDS)
    packed = segment("tiny", images=tmp_path / "shards", out=tmp_path / "b", device="cpu", words=WORDS)
    assert [image["name"] for image in packed.images] == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    for path, image in zip(files, packed.images, strict=True):
        assert (tmp_path / "a" / path.name).read_bytes() == (tmp_path / "b" / image["label_map"]).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress((tmp_path / "shards/0.tar").read_bytes()))
    with pytest.raises(DataError, match=r"x\.tar\.gz"):
        segment("tiny", images=tmp_path / "x.tar.gz", words=WORDS, out=tmp_path / "out")


def test_a_list_names_paths_by_line_or_between_nul_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a.png", "two words.png", " b.png ", "gr\u00fcn.png"]
    for name in [*names, "new\nline.png"]:
        Path(name).touch()
    lines = "\ufeffa.png\r\n\ntwo words.png\n b.png \ngr\u00fcn.png".encode()
    assert [os.fspath(path) for path in listed_paths(lines, "stdin")] == names
    assert [os.fspath(path) for path in listed_paths(b"new\nline.png\0a.png\0", "stdin")] == ["new\nline.png", "a.png"]
    with pytest.raises(DataError, match=r"no such image or folder: a\.pmg \(line 3 of stdin\); .*did you mean a\.png"):
        listed_paths(b"a.png\n\na.pmg\n", "stdin")
    with pytest.raises(DataError, match=r"no such image or folder: b \(entry 2 of stdin\)"):
        listed_paths(b"a.png\0b\0", "stdin")
    with pytest.raises(DataError, match="no image is named: stdin is empty"):
        listed_paths(b"\n \n", "stdin")
    twice = listed_paths(b"a.png\n\n./a.png\n", "stdin")
    with pytest.raises(DataError, match=r"image given twice: a\.png \(line 3 of stdin\)"):
        find_inputs(twice, SILENT)
