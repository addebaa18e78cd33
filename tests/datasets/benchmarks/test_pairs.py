"""Every layout of every published data set gives the classes that were drawn; what does not fit is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_trees import NAMES, write_split

from opentrans_cli.datasets import DATASETS, PUBLISHED
from opentrans_cli.datasets.base import panoptic_dataset
from opentrans_cli.datasets.benchmarks.on_disk import nearest_split
from opentrans_cli.datasets.benchmarks.pairs import BenchmarkPairs, BenchmarkSet, class_list_of, same_classes
from opentrans_cli.datasets.class_file import read_classes
from opentrans_cli.datasets.options import DatasetOptions, Split
from opentrans_cli.errors import DataError, OptionError
from opentrans_cli.steps.eval.word_order import check_word_order

SETS: dict[str, BenchmarkSet] = {name: DATASETS.load(name) for name in PUBLISHED}
LAYOUTS = [(name, layout) for name, benchmark in SETS.items() for layout in benchmark.layouts]
FC_CLIP = {
    "coco": "coco_panoptic",
    "voc-20": "pascal_voc_21",
    "voc-21": "pascal_voc_21",
    "context-59": "pascal_ctx_59",
    "context-459": "pascal_ctx_459",
}
"""Names of the class files of FC-CLIP, where they are not those of the data sets."""
OTHERWISE = {"light", "base", "blind", "road"}
"""Classes that FC-CLIP's files have in other words."""


def opened(name: str, root: Path, split: Split = "val", **options: Any) -> BenchmarkPairs:
    samples = DATASETS.load(name)(DatasetOptions(root=root, split=split, **options))
    assert isinstance(samples, BenchmarkPairs)
    return samples


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=[f"{name}: {layout.name}" for name, layout in LAYOUTS])
def test_the_classes_that_were_drawn_are_read_in_every_layout(name: str, layout: Any, tmp_path: Path) -> None:
    truths: dict[Split, list[np.ndarray]] = {}
    for split in layout.splits:
        truths[split] = write_split(SETS[name], layout, tmp_path, split)
    for split, drawn in truths.items():
        samples = opened(name, tmp_path, split)
        assert samples.place.layout == layout and samples.vocabulary == class_list_of(SETS[name]).vocabulary
        assert [samples.name(index) for index in range(len(samples))] == [*NAMES]
        for index, truth in enumerate(drawn):
            sample = samples[index]
            assert sample.label_map is not None and sample.image.shape == (*truth.shape, 3)
            assert np.array_equal(sample.label_map, np.where(truth < 0, samples.ignore_index, truth))
            brightest = sample.image.max(axis=2) > 100  # objects are bright, what is unlabelled is dark
            assert (brightest == (truth >= 0)).mean() > 0.9
        probe = samples.probe(skip_bad=False)
        assert probe.label_maps == 3 and probe.unlabelled == sum((truth < 0).sum() for truth in drawn)


def test_the_first_whole_layout_is_read_and_another_home_of_it_as_well(tmp_path: Path) -> None:
    first, second = SETS["cityscapes"].layouts
    write_split(SETS["cityscapes"], second, tmp_path, "val")
    assert opened("cityscapes", tmp_path).place.layout == second
    assert opened("cityscapes", tmp_path / "cityscapes").place.home == tmp_path / "cityscapes"
    write_split(SETS["cityscapes"], first, tmp_path, "val")
    assert opened("cityscapes", tmp_path).place.layout == first
    assert nearest_split(SETS["cityscapes"], tmp_path, "train").missing


def test_segments_and_label_maps_of_coco_agree(tmp_path: Path) -> None:
    truths = write_split(SETS["coco"], SETS["coco"].layouts[0], tmp_path, "val")
    samples = opened("coco", tmp_path)
    known = panoptic_dataset(samples)
    assert known is not None and sum(known.things) == 80 and known.things[:80] == (True,) * 80
    truth = known.panoptic(1)
    drawn = np.full(truth.ids.shape, -1)
    for segment in truth.segments:
        drawn[truth.ids == segment.id] = segment.class_index
    assert np.array_equal(drawn, truths[1])
    assert samples.image_id(1) == 1
    write_split(SETS["coco"], SETS["coco"].layouts[-1], tmp_path / "plain", "val")
    assert panoptic_dataset(opened("coco", tmp_path / "plain")) is None


def test_the_root_is_the_option_or_else_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(SETS["voc-21"], SETS["voc-21"].layouts[0], tmp_path, "val")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    with pytest.raises(OptionError, match=r"where are the data sets\? add --root DIR, or set \$DETECTRON2_DATASETS"):
        DATASETS.load("voc-21")(DatasetOptions(split="val"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert len(DATASETS.load("voc-21")(DatasetOptions(split="val"))) == 3
    with pytest.raises(DataError, match=r"root folder of data sets not found: .*nowhere; correct --root"):
        opened("voc-21", tmp_path / "nowhere")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"not found: .*nowhere; correct \$DETECTRON2_DATASETS"):
        DATASETS.load("voc-21")(DatasetOptions(split="val"))


def test_options_choose_images_words_and_held_out_classes(tmp_path: Path) -> None:
    write_split(SETS["voc-20"], SETS["voc-20"].layouts[0], tmp_path, "val")
    (tmp_path / "some.txt").write_text(f"{NAMES[2]}\n{NAMES[0]}\n")
    chosen = opened("voc-20", tmp_path, split_list=tmp_path / "some.txt", hold_out=("Cat",), size=96)
    assert [chosen.name(0), chosen.name(1)] == [NAMES[2], NAMES[0]] and len(chosen) == 2
    assert chosen.unseen == ("cat",) and chosen.default_crop == 96
    assert len(opened("voc-20", tmp_path, limit=1)) == 1
    names = class_list_of(SETS["voc-21"]).vocabulary.names
    (tmp_path / "words.txt").write_text("".join(f"{number}:{name},a {name}\n" for number, name in enumerate(names)))
    for name in ("voc-20", "voc-21"):  # the line of the background is one too many for voc-20, and left out
        words = opened(name, tmp_path, classes=tmp_path / "words.txt")
        assert words.vocabulary.classes[-1] == ("tvmonitor", "a tvmonitor")
        assert np.array_equal(words[0].label_map, opened(name, tmp_path)[0].label_map)  # type: ignore[arg-type]
    foreign = {"images": tmp_path, "labels": tmp_path, "ignore": (0,), "label_suffix": ".png", "label_ids": "order"}
    for option, value in foreign.items():
        with pytest.raises(OptionError, match="'voc-20' knows its own files and has no use for: --"):
            opened("voc-20", tmp_path, **{option: value})
    for name in ("shapes", "folder", "panoptic"):
        own = {} if name == "shapes" else {"images": tmp_path, "labels": tmp_path}
        with pytest.raises(OptionError, match="--root"):
            DATASETS.load(name)(DatasetOptions(root=tmp_path, **own))


@pytest.mark.parametrize("name", SETS)
def test_class_files_of_fc_clip_have_our_classes_in_our_order(name: str, shared: Path) -> None:
    file = shared / "reference" / "class_names" / f"{FC_CLIP.get(name, name.replace('-', '_'))}_with_prompt_eng.txt"
    theirs, benchmark = read_classes(file), SETS[name]
    listed = class_list_of(benchmark)
    rows = [words for words in theirs.vocabulary.classes if words[0] not in benchmark.without]
    assert len(rows) == len(listed.ids) == len(same_classes(benchmark, theirs.vocabulary, file))
    check_word_order(same_classes(benchmark, theirs.vocabulary, file), listed.vocabulary.names)
    for ours, words in zip(listed.vocabulary.names, rows, strict=True):
        known = {part for word in words for part in re.split(r"[\s-]+", word.casefold())}
        own = {*re.split(r"[\s-]+", ours.casefold())}
        assert own & (known | {part.removesuffix("s") for part in known}) or ours in OTHERWISE, (ours, words)
