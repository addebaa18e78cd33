"""Files of a folder: which are taken, and what is said of those left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from opentrans_cli.datasets.listing import files_under, list_images, list_label_maps
from opentrans_cli.datasets.picture_source import list_pictures
from opentrans_cli.errors import DataError


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_are_listed_by_relative_path_and_hidden_files_are_not(tmp_path: Path) -> None:
    for name in ["b.JPG", "a/z.png", "a.webp", "a-b.tif", "notes.txt", ".hidden.png", ".cache/x.png", "._b.JPG"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)]
    assert names == ["a-b.tif", "a.webp", "a/z.png", "b.JPG"]
    assert [path.name for path in list_label_maps(tmp_path)] == ["a-b.tif", "z.png"]


def test_a_folder_without_images_or_without_existence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in folder: .*; it needs files that end in \.jpg"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="image folder not found"):
        list_images(tmp_path / "none")
    with pytest.raises(DataError, match="label map folder not found"):
        list_label_maps(tmp_path / "none")


def test_files_are_listed_without_hidden_ones_and_without_following_linked_folders(tmp_path: Path) -> None:
    for name in ("a.tar", "b/c.TAR", "b/.d.tar", ".e/f.tar", "g.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.tar").symlink_to(tmp_path / "a.tar")
    (tmp_path / "dead.tar").symlink_to(tmp_path / "none")
    found = files_under(tmp_path, (".tar",))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.tar", "b/c.TAR", "link.tar"]
    with pytest.raises(DataError, match=r"folder cannot be read: .*none \(No such file"):
        files_under(tmp_path / "none", (".tar",))


def test_files_that_look_like_pictures_are_left_out_aloud_with_counts(tmp_path: Path) -> None:
    put(tmp_path, "a.HEIC", "b.heic", "c.gif", "d.jpg", "e.txt", "x/f.CR2")
    said: list[str] = []
    assert [path.name for path in list_images(tmp_path, say=said.append)] == ["d.jpg"]
    assert said == [f"left out, not of a kind that is read: 2 .heic, 1 .cr2, 1 .gif in {tmp_path}"]
    with pytest.raises(DataError, match=r"no label map in folder: .* \(2 \.heic, 1 \.cr2, 1 \.gif, 1 \.jpg in "):
        list_label_maps(tmp_path)
    put(tmp_path, "y_leftImg8bit.png", "z.png")
    said.clear()
    assert [path.name for path in list_images(tmp_path, suffix="_leftImg8bit.png", say=said.append)] == [
        "y_leftImg8bit.png"
    ]
    assert ".jpg" not in said[0]  # whoever names an end means no other


def test_results_of_ours_in_subfolders_are_no_photos(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "first/a.png", "first/a-overlay.png", "sub/bundle/reports/curve.png", "mine/b.png")
    (tmp_path / "first/segment.json").write_text(json.dumps({"images": [], "vocabulary": []}))
    (tmp_path / "sub/bundle/manifest.json").write_text(json.dumps({"format": "", "version": 1, "layers": []}))
    (tmp_path / "mine/manifest.json").write_text('{"format": "mine"}')  # somebody else's
    said: list[str] = []
    assert [path.name for path in list_images(tmp_path, say=said.append)] == ["a.jpg", "b.png"]
    assert said == [f"left out, results of an earlier run: first, sub/bundle in {tmp_path}"]
    assert len(list_label_maps(tmp_path / "first")) == 2  # named by the user


def test_label_maps_beside_photos_are_no_photos(tmp_path: Path) -> None:
    grey, colours = Image.new("L", (4, 4)), Image.new("RGB", (4, 4))
    for name, picture in (
        ("data/images/1.jpg", colours),
        ("data/labels/1.png", grey),
        ("data/masks/2.png", grey),  # nobody's, so it may be a photo
        ("3.jpg", colours),
        ("3.png", grey),
        ("4.jpg", colours),
        ("4.png", colours),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / name)
    said: list[str] = []
    found = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, say=said.append)]
    assert found == ["3.jpg", "4.jpg", "4.png", "data/images/1.jpg", "data/masks/2.png"]
    assert said == [
        f"left out, label maps beside the photos: 1 named {kind} in {tmp_path}"
        for kind in ("*.png", "data/labels/*.png")
    ]
    assert [picture.path for picture in list_pictures(tmp_path)] == [tmp_path / name for name in found]
