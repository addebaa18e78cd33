"""Real label maps of published data sets: names and places of classes, against files that were made by others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkPairs
from opentrans_cli.datasets.options import DatasetOptions, Split
from opentrans_cli.steps.look.datasets import datasets

LIMIT = 8


@pytest.fixture(scope="module")
def root(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples under one root, by links where they lie as the data sets do."""
    data, root = shared / "data", tmp_path_factory.mktemp("root")
    for name, sample in (
        ("coco", "coco_mini"),
        ("coco_stuff164k", "coco_stuff_sample"),
        ("ADEChallengeData2016", "ade20k_150_sample"),
    ):
        (root / name).symlink_to(data / sample)
    voc, home = data / "voc_sample/VOC2012", root / "VOC2012"
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClass"):
        (home / name).symlink_to(voc / name)
    shutil.copy(voc / "ImageSets/Segmentation/sample.txt", home / "ImageSets/Segmentation/val.txt")
    # The sample of PASCAL Context has the 59 classes in the order of its own file, and its background.
    voc, home = data / "voc_sample/VOC2010", root / "VOC2010"
    (home / "ImageSets/SegmentationContext").mkdir(parents=True)
    (home / "SegmentationClassContext").mkdir()
    (home / "JPEGImages").symlink_to(voc / "JPEGImages")
    shutil.copy(voc / "ImageSets/SegmentationContext/sample.txt", home / "ImageSets/SegmentationContext/val.txt")
    names = (Path(__file__).parents[3] / "opentrans_cli/assets/class_lists/context-59.txt").read_text().splitlines()
    places = {line.partition(":")[2]: number for number, line in enumerate(names[1:])}
    order = (data / "voc_sample/context59_classes.txt").read_text().split("\n")
    table = np.uint8([places.get(name, 255) for name in order if name])
    for path in (voc / "SegmentationClassContext").glob("*.png"):
        Image.fromarray(table[np.asarray(Image.open(path))]).save(home / "SegmentationClassContext" / path.name)
    return root


SAMPLES: dict[str, tuple[Split, int]] = {
    "coco": ("val", 100),
    "coco-stuff": ("val", 8),
    "ade20k-150": ("val", 3),
    "voc-20": ("val", 4),
    "voc-21": ("val", 4),
    "context-59": ("val", 4),
}
"""By data set the split of its sample, and how many images that has."""


def opened(name: str, root: Path, limit: int | None = LIMIT) -> BenchmarkPairs:
    samples = DATASETS.load(name)(DatasetOptions(root=root, split=SAMPLES[name][0], limit=limit))
    assert isinstance(samples, BenchmarkPairs)
    return samples


def named(samples: BenchmarkPairs) -> Iterator[tuple[str, np.ndarray]]:
    """The label maps with names in place of class indices, "" where nothing is labelled."""
    names = np.array([*samples.vocabulary.names, ""])
    for index in range(len(samples)):
        label_map = samples[index].label_map
        assert label_map is not None
        yield samples.name(index), names[np.where(label_map == samples.ignore_index, len(names) - 1, label_map)]


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_found_and_label_maps_follow_the_edges_of_their_photos(name: str, root: Path) -> None:
    split, count = SAMPLES[name]
    listed = {each.name: each for each in datasets(root=root).datasets}[name]
    found = next(each for each in listed.splits if each.split == split)
    assert found.whole and found.images == count == len(opened(name, root, None))
    samples, along, mirrored = opened(name, root), [], []
    for index in range(len(samples)):
        sample = samples[index]
        assert sample.label_map is not None
        grey = sample.image.mean(axis=2)
        steps = np.abs(np.diff(grey, axis=1))
        borders = np.diff(sample.label_map, axis=1) != 0
        if borders.any():
            along.append(steps[borders].mean())
            mirrored.append(steps[borders[:, ::-1]].mean())
    assert np.mean(along) > 1.25 * np.mean(mirrored)


def test_classes_of_coco_are_those_of_its_json_file(root: Path, shared: Path) -> None:
    document = json.loads((root / "coco/annotations/panoptic_val2017.json").read_text())
    listed = json.loads((shared / "data/coco_panopticapi_sample/panoptic_coco_categories.json").read_text())
    names = {each["id"]: each["name"] for each in listed}
    segments = {Path(each["file_name"]).stem: each["segments_info"] for each in document["annotations"]}
    for stem, label_map in named(opened("coco", root)):
        colours = np.asarray(Image.open(root / f"coco/annotations/panoptic_val2017/{stem}.png")).astype(int)
        ids = colours @ (1, 256, 65536)
        assert ((label_map == "") == (ids == 0)).all()
        for segment in segments[stem]:
            (found,) = np.unique(label_map[ids == segment["id"]])
            plain = names[segment["category_id"]].replace("-merged", "").replace("-other", "").replace("-stuff", "")
            assert found == plain.replace("-", " ")


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_classes_of_the_other_samples_are_those_of_the_lists_beside_them(root: Path, shared: Path) -> None:
    data = shared / "data"
    stuff = dict(
        line.split(": ") for line in (data / "coco_stuff_sample/labels.txt").read_text().splitlines() if line.strip()
    )
    ade = dict(
        (row.split("\t")[0], row.split("\t")[4].split(",")[0])
        for row in (data / "ade20k_150_sample/objectInfo150.txt").read_text().splitlines()
    )
    voc = dict(enumerate((data / "voc_sample/voc_classes.txt").read_text().split()))
    context = dict(enumerate((data / "voc_sample/context59_classes.txt").read_text().split("\n")))
    for name, folder, meaning in (
        ("coco-stuff", "coco_stuff_sample/annotations/val2017", {int(i) - 1: text for i, text in stuff.items()}),
        ("ade20k-150", "ade20k_150_sample/annotations/validation", {int(i): t for i, t in ade.items() if i.isdigit()}),
        ("voc-21", "voc_sample/VOC2012/SegmentationClass", voc),
        ("voc-20", "voc_sample/VOC2012/SegmentationClass", {**voc, 0: ""}),
        ("context-59", "voc_sample/VOC2010/SegmentationClassContext", {**context, 0: ""}),
    ):
        for stem, label_map in named(opened(name, root)):
            ids = pixels(data / folder / f"{stem}.png")
            for number in np.unique(ids).tolist():
                assert np.unique(label_map[ids == number]).tolist() == [meaning.get(number, "").strip()], (name, number)
