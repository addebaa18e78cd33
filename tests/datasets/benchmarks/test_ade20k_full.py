"""ADE20K's own masks: numbers of objects, the 847 of them that are classes, and names that are checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opentrans_cli.assets import class_list_file
from opentrans_cli.datasets.benchmarks.ade20k_full import (
    check_object_names,
    class_indices,
    object_names,
    object_numbers,
    read_object_numbers,
)
from opentrans_cli.datasets.class_file import read_classes
from opentrans_cli.errors import DataError, PictureError


def test_the_classes_are_numbered_in_the_order_of_the_alphabet_of_the_release() -> None:
    names = object_names()
    assert len(names) == 847
    # Up to here the release sorts its objects; what was added later stands behind.
    sorted_part = [names[number] for number in sorted(names) if number < 3098]
    assert len(sorted_part) == 827
    assert sorted_part == sorted(sorted_part)


def test_the_order_is_that_of_the_class_list_of_ade20k_847() -> None:
    short = read_classes(class_list_file("ade20k-847")).vocabulary.names
    words = [[word.strip() for word in name.split(",")] for name in object_names().values()]
    same = [name == each[0] or name in each for name, each in zip(short, words, strict=True)]
    assert len(short) == 847
    assert sum(same) >= 845  # 'house exterior' and 'ceiling fan' say more than the release does


def test_numbers_and_classes_are_those_of_a_literal_computation() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    mask[:3, :, 0] = 2978 // 256 * 10 + 7
    mask[:3, :, 1] = 2978 % 256  # wall
    numbers, indices = object_numbers(mask), class_indices(object_numbers(mask))
    order = list(object_names())
    for row in range(20):
        for column in range(30):
            red, green = int(mask[row, column, 0]), int(mask[row, column, 1])
            number = (red // 10) * 256 + green
            assert numbers[row, column] == number
            assert indices[row, column] == (order.index(number) if number in order else 65535)
    assert (indices[:3] == 0).all()


def test_real_masks_name_the_objects_that_their_descriptions_name(shared: Path) -> None:
    masks = sorted((shared / "data/ade20k_full_sample/ADE20K_2021_17_01").rglob("*_seg.png"))
    assert len(masks) == 3
    for path in masks:
        description = path.with_name(path.name.replace("_seg.png", ".json"))
        check_object_names(description)
        objects = json.loads(description.read_text(encoding="latin-1"))["annotation"]["object"]
        numbers = read_object_numbers(path)
        assert {*np.flatnonzero(np.bincount(numbers.reshape(-1))).tolist()} <= {
            0,
            *(each["name_ndx"] for each in objects),
        }
        assert (class_indices(numbers) < 847).mean() > 0.85
    assert sum(each["name_ndx"] in object_names() for each in objects) > 20


def test_a_real_mask_is_the_150_class_mask_of_the_same_photo(shared: Path) -> None:
    """By ADE20K's own table of the two numberings; the challenge takes the pixel at the centre of each smaller one."""
    folder = shared / "data/ade20k_full_sample/convertFromADE"
    numbers = read_object_numbers(folder / "ADE_train_00000970_raw.png")
    challenge = np.asarray(Image.open(folder / "ADE_train_00000970_challenge.png"))
    pairs = [line.split() for line in (folder / "mapFromADE.txt").read_text().splitlines() if line.strip()]
    of_150 = np.zeros(6656, np.uint8)
    for index, number in pairs:
        of_150[int(number)] = int(index)
    (height, width), (rows, columns) = challenge.shape, numbers.shape
    taken_rows = ((np.arange(height) + 0.5) * rows / height).astype(int)
    taken_columns = ((np.arange(width) + 0.5) * columns / width).astype(int)
    assert (of_150[numbers][np.ix_(taken_rows, taken_columns)] == challenge).all()
    # And by names: each object that is one of the 847 has the first word of the class among the 150.
    names_150 = read_classes(class_list_file("ade20k-150")).vocabulary.names
    for number in set(np.unique(numbers).tolist()) - {0}:
        words = [word.strip() for word in object_names()[number].split(",")]
        assert names_150[of_150[number] - 1] in words


def test_a_mask_without_colours_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a_seg.png")
    with pytest.raises(PictureError, match=r"mask has no colours: .*a_seg\.png \(L\)"):
        read_object_numbers(tmp_path / "a_seg.png")


def test_another_numbering_is_refused(tmp_path: Path) -> None:
    def described(*objects: dict) -> Path:
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"annotation": {"object": list(objects)}}))
        return path

    check_object_names(described({"name_ndx": 2978, "name": "wall"}, {"name_ndx": 1, "name": "what is no class"}))
    with pytest.raises(
        DataError, match=r"object 2978 is 'sky', not 'wall': .*a\.json; take the release ADE20K_2021_17_01"
    ):
        check_object_names(described({"name_ndx": 2978, "name": "sky"}))
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(PictureError, match=r"cannot be read: .*a\.json; download it again"):
        check_object_names(tmp_path / "a.json")
