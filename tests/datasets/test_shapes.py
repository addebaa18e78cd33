"""The embedded scenes as a data set: the same bits everywhere, two splits, fairly chosen unseen classes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from opentrans_cli.datasets import DATASETS
from opentrans_cli.datasets.options import DatasetOptions, Split
from opentrans_cli.datasets.scenes import CLASSES, COLOURS, GROUNDS, OBJECTS, SHAPES, UNSEEN
from opentrans_cli.datasets.shapes import ShapesDataset, open_shapes
from opentrans_cli.errors import OptionError
from opentrans_cli.pictures.palette import class_colours

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


def test_scenes_have_the_same_bits_on_every_platform() -> None:
    for (split, size, index), digest in GOLDEN.items():
        sample = ShapesDataset(split, size=size)[index]
        assert sample.label_map is not None
        content = sample.image.tobytes() + sample.label_map.astype(np.uint8).tobytes()
        assert hashlib.sha256(content).hexdigest() == digest, (split, size, index)


def test_the_splits_share_no_scene_and_options_choose_among_them() -> None:
    scenes = {ShapesDataset(split, size=32)[i].image.tobytes() for i in range(200) for split in ("train", "val")}
    assert len(scenes) == 400
    assert (len(ShapesDataset("train")), len(ShapesDataset("val"))) == (4096, 200)
    chosen = DATASETS.load("shapes")(DatasetOptions(split="val", size=48, limit=3))
    assert (len(chosen), chosen.default_crop, chosen[2].name) == (3, 48, "val-000002")
    assert chosen.vocabulary.names == CLASSES and open_shapes(DatasetOptions()).default_crop == 96
    with pytest.raises(IndexError):
        chosen[-1]
    for name, value in (("limit", 0), ("size", 31), ("ignore", -1), ("ignore", 65536)):
        with pytest.raises(OptionError, match=f"{name}:? {value}; "):  # of any data set
            DatasetOptions(**{name: value})
    with pytest.raises(OptionError, match="unknown split: 'test'; choose one of train, val"):
        DatasetOptions(split="test")
    with pytest.raises(OptionError, match="has no use for: --classes, --hold-out; leave it out"):
        open_shapes(DatasetOptions(classes=Path("x.txt"), hold_out=("red star",)))


def test_captions_name_what_the_label_map_shows_and_every_class_occurs() -> None:
    dataset = ShapesDataset("train", size=64, count=500)
    pixels = np.zeros(len(CLASSES), np.int64)
    for index in range(500):
        label_map = dataset[index].label_map
        assert label_map is not None and label_map.max() < len(CLASSES)
        pixels += np.bincount(label_map.ravel(), minlength=len(CLASSES))
        (caption,) = dataset.captions(index)
        shown, named = {CLASSES[i] for i in np.unique(label_map)}, {name for name in CLASSES if name in caption}
        assert named <= shown and len(named & set(GROUNDS)) == 1 and named >= shown & set(GROUNDS), index
    assert (pixels > 0).all()
    alone = ShapesDataset("val", count=50, objects=(1, 1))
    for index in range(50):
        thing, ground = (CLASSES[i] for i in np.unique(alone[index].label_map))
        assert alone.captions(index) == (f"a{'n' if thing[0] == 'o' else ''} {thing} on {ground}",)


def test_every_colour_and_every_shape_is_unseen_twice() -> None:
    assert len(CLASSES) == len(set(CLASSES)) == 70 and len(UNSEEN) == 16 and set(UNSEEN) <= set(OBJECTS)
    words = [name.split() for name in UNSEEN]
    assert all(sum(colour == word for colour, _ in words) == 2 for word in COLOURS)
    assert all(sum(shape == word for _, shape in words) == 2 for word in SHAPES)


def test_the_fingerprint_says_which_scenes() -> None:
    choices = [ShapesDataset("train"), ShapesDataset("val"), ShapesDataset("train", size=64)]
    choices += [ShapesDataset("train", count=5), ShapesDataset("train", objects=(1, 3))]
    assert len({dataset.fingerprint for dataset in choices}) == len(choices)
    assert ShapesDataset("train").fingerprint == choices[0].fingerprint


def test_every_class_is_shown_in_a_colour_of_its_own_near_its_natural_one() -> None:
    colours = class_colours(CLASSES)
    assert colours.shape == (len(CLASSES), 3) and len(np.unique(colours, axis=0)) == len(CLASSES)
    dataset = ShapesDataset("train", count=60)
    samples = [dataset[index] for index in range(60)]
    for index in range(len(OBJECTS), len(CLASSES)):
        pixels = np.concatenate([sample.image[sample.label_map == index] for sample in samples])
        assert np.abs(pixels.mean(axis=0) - colours[index]).max() < 45, CLASSES[index]
    for number, word in enumerate(COLOURS):  # of each colour word, one shade is the colour of its objects
        shades = colours[8 * number : 8 * number + 8].astype(int)
        pixels = np.concatenate(
            [s.image[(s.label_map >= 8 * number) & (s.label_map < 8 * number + 8)] for s in samples]
        ).astype(float)
        assert np.abs(shades - np.median(pixels, axis=0)).max(axis=1).min() < 45, word
