"""The data set `panoptic`: COCO's own files give label maps and segments, and files that do not fit are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panoptic_quality import panoptic_json, read_ids, write_ids
from PIL import Image

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import panoptic_dataset
from opentrans_cli.datasets.options import DatasetOptions, dataset_name
from opentrans_cli.datasets.panoptic_photos import open_panoptic
from opentrans_cli.errors import DataError, OptionError, PictureError


def test_cocos_files_give_label_maps_and_segments(shared: Path) -> None:
    folder = shared / "data" / "coco_mini"
    options = DatasetOptions(
        images=folder / "val2017", labels=folder / "annotations" / "panoptic_val2017.json", limit=5
    )
    samples = open_panoptic(options)
    document = json.loads((folder / "annotations" / "panoptic_val2017.json").read_text())
    names = [category["name"] for category in sorted(document["categories"], key=lambda category: category["id"])]
    kinds = {category["id"]: category for category in document["categories"]}
    assert list(samples.vocabulary.names) == names and len(samples) == 5
    assert panoptic_dataset(samples) is samples and sum(samples.things) == 80
    assert dataset_name(None, options) == "panoptic"
    for row, annotation in enumerate(document["annotations"][:5]):
        sample, truth = samples[row], samples.panoptic(row)
        ids = read_ids(folder / "annotations" / "panoptic_val2017" / annotation["file_name"])
        assert sample.name == samples.name(row) == Path(annotation["file_name"]).stem
        assert samples.image_id(row) == annotation["image_id"]
        assert np.array_equal(truth.ids, ids) and truth.ids.dtype == np.int32
        for segment, listed in zip(truth.segments, annotation["segments_info"], strict=True):
            assert (segment.id, segment.crowd) == (listed["id"], bool(listed["iscrowd"]))
            assert names[segment.class_index] == kinds[listed["category_id"]]["name"]
            assert (sample.label_map[ids == segment.id] == segment.class_index).all()
        assert (sample.label_map[ids == 0] == 255).all()


def test_the_benchmark_coco_reads_the_same_from_the_same_files(shared: Path) -> None:
    folder = shared / "data" / "coco_mini"
    own = open_panoptic(
        DatasetOptions(images=folder / "val2017", labels=folder / "annotations" / "panoptic_val2017.json")
    )
    benchmark = panoptic_dataset(DATASETS.load("coco")(DatasetOptions(root=folder, split="val", limit=3)))
    assert benchmark is not None
    assert (benchmark.category_ids, benchmark.things) == (own.category_ids, own.things)
    rows = {own.name(row): row for row in range(len(own))}
    for row in range(3):
        same = rows[benchmark.name(row)]
        assert benchmark.image_id(row) == own.image_id(same)
        found, expected = benchmark.panoptic(row), own.panoptic(same)
        assert np.array_equal(found.ids, expected.ids) and found.segments == expected.segments


def test_a_class_file_renames_categories_and_a_list_chooses_images(labelled_folder: Any, tmp_path: Path) -> None:
    labels, chosen = panoptic_json(labelled_folder), tmp_path / "val.txt"
    chosen.write_text("4\n1.png\n")
    plain = open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels, split_list=chosen))
    named = open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels, classes=labelled_folder.classes))
    assert [plain.name(row) for row in range(len(plain))] == ["4", "1"]
    assert named.vocabulary.classes[1] == ("red square", "red box") and plain.vocabulary.classes[1] == ("red square",)
    assert plain.things == (False, True, True) and plain.fingerprint != named.fingerprint
    label_map = np.asarray(Image.open(labelled_folder.labels / "4.png"))
    assert np.array_equal(plain[0].label_map, label_map)
    written = tmp_path / "written.txt"
    written.write_text("7:red\n3:green\n9:blue\n")
    by_id = open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels, classes=written))
    assert by_id.vocabulary.names == ("green", "red", "blue")


def test_segments_of_the_stored_photo_are_turned_with_it(labelled_folder: Any) -> None:
    labels = panoptic_json(labelled_folder)
    for name in ("0.png", "1.png"):  # 64 x 48 stored, and 48 x 64 as a person sees it
        photo = Image.open(labelled_folder.images / name).crop((0, 0, 64, 48))
        exif = Image.Exif()
        exif[0x0112] = 6
        photo.save(labelled_folder.images / name, exif=exif)
    document = json.loads(labels.read_text())
    stored = read_ids(labels.with_suffix("") / "0.png")[:48]
    for name, ids in (("0.png", stored), ("1.png", np.rot90(stored, -1))):
        write_ids(labels.with_suffix("") / name, ids)
        number = int(name[0])
        document["images"][number] |= {"height": ids.shape[0], "width": ids.shape[1]}
        document["annotations"][number]["segments_info"] = document["annotations"][0]["segments_info"]
    labels.write_text(json.dumps(document))
    samples = open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels))
    for row in range(2):
        assert samples[row].image.shape[:2] == samples[row].label_map.shape == (64, 48)
        assert np.array_equal(samples.panoptic(row).ids, np.rot90(stored, -1))


Change = Callable[[dict[str, Any], Path], object]


def _first(document: dict[str, Any]) -> list[dict[str, Any]]:
    return document["annotations"][0]["segments_info"]


def _save(picture: Image.Image) -> Change:
    return lambda document, folder: picture.save(folder / "0.png")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d, f: _first(d).pop(), r"segment 7000\d is only in the PNG: .*0\.png \(.*panoptic.json\)"),
        (lambda d, f: _first(d).append({"id": 5, "category_id": 3}), "segment 5 is only in the JSON: .*0.png"),
        (lambda d, f: _first(d)[0].update(category_id=4), "category id without a class: 4 for image 1"),
        (lambda d, f: _first(d)[0].update(id=1 << 24), "segment id out of range: 16777216 in .*annotations.0."),
        (lambda d, f: _first(d)[1].update(id=70000), "segment id occurs twice: 70000 in .*annotations.0."),
        (lambda d, f: _first(d)[0].update(id="a"), "has a wrong 'id': .*annotations.0."),
        (lambda d, f: d["annotations"][0].pop("segments_info"), "no list of 'segments_info': .*annotations.0."),
        (lambda d, f: d["annotations"].append(d["annotations"][0]), "two annotations of the image 1"),
        (lambda d, f: d["images"].append(d["images"][0] | {"width": 3}), "two images with the id 1"),
        (lambda d, f: d["categories"].append({"id": 3, "name": "sky"}), "two categories with the id 3"),
        (lambda d, f: d.pop("categories"), "lists no categories"),
        (lambda d, f: d["images"].pop(0), "segments of an image that is not listed: 1 in"),
        (lambda d, f: d["images"][0].update(width=65), "panoptic PNG is 64 x 64, but its JSON says 65 x 64: .*0.png"),
        (
            lambda d, f: (f / "0.png").unlink(),
            "panoptic PNG that .*panoptic.json lists is not there: .*0.png; add it to",
        ),
        (
            lambda d, f: d["images"][0].update(file_name="none.jpg"),
            "image that .*panoptic.json lists is not there: .*none.jpg; add it to .*photos",
        ),
        (lambda d, f: (f / "0.png").write_bytes(b"no"), "panoptic PNG cannot be read: .*0.png"),
        (_save(Image.new("L", (64, 64))), "panoptic PNG has no colours, so no segment ids: .*0.png"),
    ],
)
def test_files_that_do_not_fit_end_in_one_line_that_names_them(change: Change, says: str, labelled_folder: Any) -> None:
    labels = panoptic_json(labelled_folder)
    document = json.loads(labels.read_text())
    change(document, labels.with_suffix(""))
    labels.write_text(json.dumps(document))
    with pytest.raises(DataError, match=says) as raised:
        open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels))[0]
    assert "\n" not in str(raised.value) and "; " in str(raised.value)


def test_what_is_no_json_and_options_without_use_are_refused(labelled_folder: Any, tmp_path: Path) -> None:
    labels = panoptic_json(labelled_folder)
    labels.write_text("[")
    with pytest.raises(DataError, match=r"COCO file is no JSON: .*panoptic\.json"):
        open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels))
    with pytest.raises(DataError, match="COCO file not found"):
        open_panoptic(DatasetOptions(images=labelled_folder.images, labels=tmp_path / "none.json"))
    for given in ({"ignore": (3,)}, {"image_suffix": "_x.png"}):
        with pytest.raises(OptionError, match="has no use for"):
            open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels, **given))
    with pytest.raises(OptionError, match="--labels missing"):
        open_panoptic(DatasetOptions(images=labelled_folder.images))


def test_a_photo_of_another_size_is_named(labelled_folder: Any) -> None:
    labels = panoptic_json(labelled_folder)
    Image.new("RGB", (50, 64)).save(labelled_folder.images / "0.png")
    with pytest.raises(PictureError, match=r"image is 50x64 but its label map 64x64: .*0\.png"):
        open_panoptic(DatasetOptions(images=labelled_folder.images, labels=labels))[0]
