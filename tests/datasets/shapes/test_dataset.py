"""The embedded scenes as a data set: the same bits everywhere, two splits, fairly chosen unseen classes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.base import DatasetOptions, SegDataset, Split
from opentrans_cli.datasets.shapes.classes import CLASSES, COLOURS, GROUNDS, OBJECTS, SEEN, SHAPES, UNSEEN
from opentrans_cli.datasets.shapes.dataset import ShapesDataset, open_shapes
from opentrans_cli.errors import OptionError

# SHA-256 over image and label map (both uint8). The embedded network has learnt from scenes with these bits.
GOLDEN: dict[tuple[Split, int, int], str] = {
    ("train", 96, 0): "80ba299adec3f94e880c7d476711aced01f99a51e01cb2b037bb5ebba92747a1",
    ("train", 96, 1): "a924fdd252f9730c01ffacd936867c018aa9a72d91c60522d9b8a6befd51f2ce",
    ("train", 96, 4095): "86230112e69f5401010ec58b16ab3848921f687b6751c8e73e70edfe3ac00804",
    ("val", 96, 0): "866f9c2c74fdebd3e5b28f9ffcb207231c0122362f2f2491664c13d2a6278001",
    ("val", 96, 199): "20b32ec2f9c8d298f9e64ccf191f11b2e12e13863a25bd392df332ab329255ac",
    ("train", 64, 7): "696e1f70e74d8f96cdbf0631c05ee57aa5bd31a53ffb23459ac3910cdafc9bed",
    ("val", 128, 3): "1e70a22d7511c3c9964a57efb3bc38cb51a3f1c575480585d893f61bb50278da",
}


@pytest.mark.parametrize("key", GOLDEN, ids=str)
def test_scenes_have_the_same_bits_on_every_platform(key: tuple[Split, int, int]) -> None:
    split, size, index = key
    sample = ShapesDataset(split, size=size)[index]
    assert sample.label_map is not None
    content = sample.image.tobytes() + sample.label_map.astype(np.uint8).tobytes()
    assert hashlib.sha256(content).hexdigest() == GOLDEN[key]


def test_samples_are_labelled_everywhere_with_known_classes() -> None:
    dataset: SegDataset = ShapesDataset("val", size=64, count=20)
    assert (len(dataset), dataset.default_crop, dataset.ignore_index) == (20, 64, 255)
    assert dataset.vocabulary.names == CLASSES
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample.label_map is not None
        assert sample.image.shape == (64, 64, 3)
        assert sample.label_map.dtype == np.int64
        assert sample.label_map.shape == (64, 64)
        assert sample.label_map.max() < len(CLASSES)
    assert dataset[7].name == "val-000007"
    for outside in (20, -1):
        with pytest.raises(IndexError):
            dataset[outside]


def test_the_splits_share_no_scene() -> None:
    digests = {
        split: {ShapesDataset(split, size=32)[i].image.tobytes() for i in range(200)} for split in ("train", "val")
    }
    assert len(digests["train"] | digests["val"]) == 400
    assert (len(ShapesDataset("train")), len(ShapesDataset("val"))) == (4096, 200)


def test_captions_name_what_the_label_map_shows() -> None:
    dataset = ShapesDataset("train", count=100)
    for index in range(100):
        (caption,) = dataset.captions(index)
        shown = {CLASSES[i] for i in np.unique(dataset[index].label_map)}
        named = {name for name in CLASSES if name in caption}
        assert named <= shown
        assert len(named & set(GROUNDS)) == 1
        assert named >= shown & set(GROUNDS)


def test_the_caption_of_a_lone_object_names_it_and_its_ground() -> None:
    dataset = ShapesDataset("val", count=50, objects=(1, 1))
    for index in range(50):
        (caption,) = dataset.captions(index)
        thing, ground = (CLASSES[i] for i in np.unique(dataset[index].label_map))
        assert caption == f"a{'n' if thing[0] == 'o' else ''} {thing} on {ground}"


def test_every_class_occurs() -> None:
    dataset = ShapesDataset("train", size=64)
    pixels = sum(np.bincount(dataset[i].label_map.ravel(), minlength=len(CLASSES)) for i in range(500))
    assert (pixels > 0).all()


def test_seen_and_unseen_classes_are_all_classes() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 70
    assert set(SEEN) | set(UNSEEN) == set(CLASSES)
    assert not set(SEEN) & set(UNSEEN)
    assert len(UNSEEN) == 16
    assert set(UNSEEN) <= set(OBJECTS)


def test_every_colour_and_every_shape_is_unseen_twice() -> None:
    words = [name.split() for name in UNSEEN]
    assert all(sum(colour == word for colour, _ in words) == 2 for word in COLOURS)
    assert all(sum(shape == word for _, shape in words) == 2 for word in SHAPES)


def test_the_fingerprint_says_which_scenes() -> None:
    choices = [ShapesDataset("train"), ShapesDataset("val"), ShapesDataset("train", size=64)]
    choices += [ShapesDataset("train", count=5), ShapesDataset("train", objects=(1, 3))]
    assert len({dataset.fingerprint for dataset in choices}) == len(choices)
    assert ShapesDataset("train").fingerprint == choices[0].fingerprint


def test_options_choose_split_size_and_count() -> None:
    dataset = DATASETS.load("shapes")(DatasetOptions(split="val", size=48, limit=3))
    assert (len(dataset), dataset.default_crop) == (3, 48)
    assert dataset[2].name == "val-000002"
    assert open_shapes(DatasetOptions()).default_crop == 96


def test_options_of_other_data_sets_are_refused() -> None:
    with pytest.raises(OptionError, match="has no use for: --classes, --hold-out; leave it out"):
        open_shapes(DatasetOptions(classes=Path("x.txt"), hold_out=("red star",)))
