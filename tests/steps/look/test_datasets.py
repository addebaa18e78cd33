"""datasets: what of the published data sets lies under a root, part by part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_trees import write_split

from opentrans_cli.bundle.schema import check_document
from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.images import read_image
from opentrans_cli.errors import DataError, OutputError
from opentrans_cli.steps.look.datasets import datasets

NINE = {"coco": 133, "coco-stuff": 171, "cityscapes": 19, "ade20k-150": 150, "ade20k-847": 847}
NINE |= {"voc-20": 20, "voc-21": 21, "context-59": 59, "context-459": 459}


def test_every_published_data_set_is_listed_with_classes_and_download_and_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    nowhere, empty = datasets(), datasets(root=tmp_path)
    check_document(json.loads(json.dumps(empty.to_json())), "datasets_report")
    check_document(json.loads(json.dumps(nowhere.to_json())), "datasets_report")
    assert nowhere.root is None and nowhere.datasets == empty.datasets
    assert {each.name: each.classes for each in empty.datasets} == NINE
    for each in empty.datasets:
        assert each.download.startswith("http") and each.title and not each.to_prepare
        for split in each.splits:
            assert not split.whole and split.images == 0 and split.parts
            assert not any(part.files or Path(part.path).is_absolute() for part in split.parts)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert datasets().root == tmp_path
    with pytest.raises(DataError, match="root folder of data sets not found"):
        datasets(root=tmp_path / "nowhere")


def test_what_is_there_is_counted_and_what_is_not_is_told_part_by_part(tmp_path: Path) -> None:
    for name in ("coco", "cityscapes", "voc-21"):
        benchmark = DATASETS.load(name)
        write_split(benchmark, next(each for each in benchmark.layouts if each.downloaded), tmp_path, "val")
    (tmp_path / "coco/annotations/panoptic_val2017.json").unlink()
    (tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_text("a_000000\n")
    (tmp_path / "ADE20K_2021_17_01/images/ADE").mkdir(parents=True)
    listed = {each.name: each for each in datasets(root=tmp_path).datasets}
    splits = {name: each.splits[[split.split for split in each.splits].index("val")] for name, each in listed.items()}
    assert splits["cityscapes"].whole and splits["cityscapes"].images == 3
    assert splits["cityscapes"].layout == "labelIds, as downloaded"
    assert (splits["voc-20"].whole, splits["voc-20"].images, splits["voc-21"].images) == (True, 1, 1)
    assert not splits["coco"].whole
    assert [(part.kind, part.files) for part in splits["coco"].parts] == [
        ("photos", 3),
        ("label maps", 3),
        ("panoptic JSON", 0),
    ]
    assert splits["coco"].parts[2].path == "coco/annotations/panoptic_val2017.json"
    assert listed["ade20k-847"].to_prepare and listed["ade20k-847"].raw == ("ADE20K_2021_17_01/images/ADE",)
    assert listed["ade20k-847"].needs_prepare and not listed["coco"].needs_prepare


def test_the_sheet_shows_each_data_set_that_is_there_and_replaces_no_file_unasked(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    with pytest.raises(DataError, match="no data set to draw"):
        datasets(root=tmp_path, out=sheet)
    assert not sheet.exists()
    heights = []
    for name, split in (("voc-21", "val"), ("cityscapes", "train")):
        benchmark = DATASETS.load(name)
        write_split(benchmark, next(each for each in benchmark.layouts if each.downloaded), tmp_path, split)
        assert datasets(root=tmp_path, out=sheet, force=True).sheet == sheet
        heights.append(len(read_image(sheet)))
    assert heights[1] > 1.4 * heights[0]  # VOC with 20 and with 21 classes, then a third
    with pytest.raises(OutputError, match=r"already|exists"):
        datasets(root=tmp_path, out=sheet)
