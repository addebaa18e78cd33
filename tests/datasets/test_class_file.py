"""Class files of many projects: the names and ids that are read, and what is refused because it has two meanings."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.datasets.class_file import ClassList, file_among, read_classes
from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError


def written(folder: Path, text: str | bytes, name: str = "classes.txt") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_line_is_a_class_and_commas_separate_synonyms(tmp_path: Path) -> None:
    path = written(tmp_path, "# animals\ncat, kitten\n\n  Dog \r\nfire hydrant\n")
    vocabulary = read_classes(path).vocabulary
    assert vocabulary.classes == (("cat", "kitten"), ("Dog",), ("fire hydrant",))
    assert vocabulary.names == ("cat", "Dog", "fire hydrant")
    assert len(vocabulary) == 3


def test_names_and_a_file_with_the_same_lines_agree(tmp_path: Path) -> None:
    lines = ["sky,clouds", "grass", "a: b"]
    assert read_classes(written(tmp_path, "\n".join(lines))).vocabulary == Vocabulary.from_names(lines)


def test_numbered_lines_keep_their_ids_without_the_invalid_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "0:invalid_class_id\n1:person,child\n5:car\n12:invalid_class_id\n13:bus\n")
    classes = read_classes(path)
    assert classes.vocabulary.classes == (("person", "child"), ("car",), ("bus",))
    assert (classes.ids, classes.void, classes.default_ignored) == ((1, 5, 13), (), (255,))


def test_repeats_in_a_numbered_file_keep_the_first_spelling_and_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, "1:pot,Pan,pot,pan\n2:pot\n")
    assert read_classes(path).vocabulary.classes == (("pot", "Pan"), ("pot",))


def test_a_faulty_file_is_refused_with_its_line_and_the_next_move(tmp_path: Path) -> None:
    empty, lost = "class file is empty: PATH; write one entry per line", "write 'id:name' or drop all ids"
    for text, message in (
        ("", empty),
        ("# only a comment\n\n", empty),
        ("cat\nd\xf6g\n".encode("latin-1"), "class file is not UTF-8 text: PATH, line 2; save it as UTF-8"),
        ("cat\ndog,,puppy\n", "empty class name: PATH, line 2; remove the extra comma or write the missing name"),
        ("cat\ndog\nCat\n", "'Cat' names two classes: PATH, line 1 and PATH, line 3; keep it in one"),
        ("cat,pet\n\ndog,Pet\n", "'Pet' names two classes: PATH, line 1 and PATH, line 3; keep it in one"),
        ("cat,puss,Puss\ndog\n", "'puss' occurs twice in one class: PATH, line 1; keep it once"),
        (
            "2:cat\n2:dog\n",
            "two classes have the id 2: PATH, line 1 and PATH, line 2; give each its own, and write synonyms behind "
            "the name",
        ),
        ("0:cat\n65536:dog\n", "class id is too large: 65536 in PATH, line 2; label maps hold at most 65535"),
        ("0:cat\ndog\n", f"line without an id among lines with ids: PATH, line 2; {lost}"),
        ("cat\n1:dog\n", f"line without an id among lines with ids: PATH, line 1; {lost}"),
        ("0:invalid_class_id\n", "class file has only invalid_class_id lines: PATH; write one class per line"),
    ):
        path = written(tmp_path, text)
        with pytest.raises(DataError) as caught:
            read_classes(path)
        assert str(caught.value).replace(str(path), "PATH") == message


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class file not found: .*none\.txt; check the path"):
        read_classes(tmp_path / "none.txt")
    with pytest.raises(DataError, match="class file cannot be read"):
        read_classes(tmp_path)


ROADS = {7: ("road", "street"), 11: ("building",), 12: ("sky",)}
NAMES = {0: ("road", "street"), 1: ("building",), 2: ("sky",)}


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("colon", "7: road, street\n11: building\n12: sky\n", ROADS),
        ("any order", "12:sky\n7:road;street\n11:building\n", ROADS),
        ("comma", "7,road,street\n11,building\n12,sky\n", ROADS),
        ("quotes", '7,"road, street"\n11,"building"\n12,sky\n', ROADS),
        ("tab", "7\troad, street\n11\tbuilding\n12\tsky\n", ROADS),
        ("semicolon", "7;road;street\n11;building\n12;sky\n", ROADS),
        ("blank", "7 road, street\n11 building\n12  sky\n", ROADS),
        ("signs", "7 = road, street\n11 = building\n12 = sky\n", ROADS),
        ("dots", "7. road, street\n11. building\n12. sky\n", ROADS),
        ("name: id", "road, street: 7\nbuilding: 11\nsky = 12\nplate: -1\n", ROADS),
        ("pandas", ",name\n7.0,road;street\n11.0,building\n12.0,sky\n", ROADS),
        ("ids as text", '[{"id": "7", "name": "road,street"}, {"id": 11.0, "name": "building"}, ["12", "sky"]]', ROADS),
        ("body of a dict", "'7': 'road', 'street'\n'11': 'building'\n'12': 'sky'\n", ROADS),
        ("bullets", "- road;street\n- building\n- sky\n", NAMES),
        ("hex", "label,color\nroad;street,#804080\nbuilding,#464646\nsky,#4682b4\n", NAMES),
        ("minus", "7: road, street\n11: building\n12: sky\n-1: plate\n", ROADS),
        ("id last", "road;street,7\nbuilding,11\nsky,12\n", ROADS),
        ("headings", "Idx\tRatio\tName\n7\t0.3\troad;street\n11\t0.1\tbuilding\n12\t0\tsky\n", ROADS),
        ("CSV", "name,id,r,g,b\nroad;street,7,1,2,3\nbuilding,11,4,5,6\nsky,12,7,8,9\n", ROADS),
        ("colours", "7,road;street,128,64,128\n11,building,70,70,70\n12,sky,70,130,180\n", ROADS),
        ("UTF-16", "7:road,street\r\n11:building\r\n12:sky\r\n".encode("utf-16"), ROADS),
        ("mark", b"\xef\xbb\xbf7:road,street\r11:building\r12:sky\r", ROADS),
        ("void", "255,out of roi\n7,road,street\n11,building\n255,ego\n-1,plate\n12,sky\n", ROADS),
        ("object", '{"11": "building", "7": ["road", "street"], "12": {"name": "sky"}}', ROADS),
        ("name to id", '{"building": 11, "road,street": 7, "sky": 12}', ROADS),
        ("pairs", '[["road, street", 7], ["building", 11], [12, "sky"]]', ROADS),
        (
            "COCO",
            '{"images": [{"id": 4}], "categories": [{"supercategory": "flat", "id": 7, "name": "road, street"}, '
            '{"id": 11, "name": "building"}, {"id": 12, "name": "sky"}]}',
            ROADS,
        ),
        (
            "lines",
            '{"id": 7, "name": "road", "synonyms": ["street"]}\n{"id": 11, "name": "building"}\n'
            '{"id": 12, "name": "sky"}\n',
            ROADS,
        ),
        ("YAML", "path: data\nnames:\n  7: road, street\n  11: building\n  12: sky\n", ROADS),
        ("list", '["road,street", "building", "sky"]', NAMES),
        ("lists", '[["road", "street"], ["building"], ["sky"]]', NAMES),
        ("model", '{"id2label": {"0": "road;street", "1": "building", "2": "sky"}, "label2id": {"sky": 2}}', NAMES),
        ("Python", "('road, street',\n 'building', \"sky\")", NAMES),
        ("plain", "road;street\nbuilding\nsky\n", NAMES),
        ("colours only", "road;street\t128 64 128\nbuilding\t70 70 70\nsky\t70 130 180\n", NAMES),
        ("labelme", "__ignore__\nroad;street\nbuilding\nsky\n", NAMES),
        ("CVAT", "# label:color_rgb:parts:actions\nroad;street:128,64,128::\nbuilding:7,7,7::\nsky:1,2,3::\n", NAMES),
        ("name and colour", "road;street 128 64 128\nbuilding (70, 70, 70)\nsky: 1 2 3\n", NAMES),
        ("WordNet", "n04096066 road, street\nn02913152 building\nn09436708 sky\n", NAMES),
    ],
)
def test_files_of_other_projects_are_read(
    tmp_path: Path, name: str, text: str | bytes, wanted: dict[int, tuple[str]]
) -> None:
    suffix = {"YAML": ".yaml", "lines": ".jsonl"}.get(name, ".txt")
    classes = read_classes(written(tmp_path, text, f"classes{suffix}"))
    assert dict(zip(classes.ids, classes.vocabulary.classes, strict=True)) == wanted
    assert classes.written == (wanted is ROADS or name == "model")
    assert any("writes ids" in remark for remark in classes.remarks) == (wanted is ROADS)
    assert classes.in_order() == ClassList.of(classes.vocabulary)


def test_names_of_pixels_without_a_class_are_no_classes_and_their_ids_are_ignored(tmp_path: Path) -> None:
    numbered = read_classes(written(tmp_path, "0: unlabeled\n1: person\n2: car\n"))
    assert (numbered.ids, numbered.void, numbered.default_ignored) == ((1, 2), (0,), (0,))
    plain = read_classes(written(tmp_path, "Sky\nRoad\nVoid\n"))
    assert (plain.ids, plain.void, plain.vocabulary.names) == ((0, 1), (2,), ("Sky", "Road"))
    assert "'Void' in " in plain.remarks[0] and "pixels of id 2 are not labelled" in plain.remarks[0]
    assert read_classes(written(tmp_path, "254:a\n255:b\n")).default_ignored == (65535,)


def test_a_file_with_two_meanings_is_refused_with_the_next_move(tmp_path: Path) -> None:
    for text, message in (
        ("grass, red square, water\n", "one class with synonyms, or several classes: PATH, line 1"),
        ("name\nroad\nsky\n", "a heading or a class: 'name' in PATH, line 1; put # before a heading"),
        ("3 wheeler\n", "an id and a name, or a name: '3 wheeler' in PATH, line 1; write 'id:name'"),
        ("0 road\n1 sky\ntree\n", "line without an id among lines with ids: PATH, line 3"),
        ("0\n1\n2\n", "holds numbers without names"),
        ("64 128 64 Animal\n192 0 128 Archway\n", "holds numbers without names"),
        ("128,64,128,road\n1,2,3,sky\n", "which column holds the ids is not clear: PATH, line 1"),
        ("1\troad\tflat\n2\tsky\tfar\n", "which column holds the names is not clear: PATH, line 1"),
        ("id,trainId,name\n7,0,road\n8,1,sky\n", "which ids label maps hold is not clear: PATH, line 1"),
        ('[{"id": 7, "trainId": 0, "name": "road"}]', "which ids label maps hold is not clear: PATH, entry 0"),
        ("1_road\n2_car\n", "a name, or a name and something else: '1_road' in PATH, line 1"),
        ("id: 1, name: road\nid: 2, name: car\n", "a name, or a name and something else"),
        ("a\tb\nc\n", "line without a tab among lines with tabs: PATH, line 2"),
        ("id,name\n0,road,street\n", "3 columns, but 2 headings: PATH, line 2; quote a name with commas"),
        ("id,colour\n0,1\n", "no column of names: PATH, line 1 has id, colour; call one 'name'"),
        ('{"a": 1, "a": 2}', "'a' occurs twice: PATH; keep one"),
        ('{"info": 1, "images": []}', "no classes found: PATH has info, images"),
        ('["a", "b"', "begins like JSON and is none: PATH"),
        ("[" * 99999, "nested too deeply|begins like JSON"),
        ('[{"id": 1, "name": "a"}, "b"]', "class without an id among others with ids: PATH, entry 1"),
        ("item {\n  id: 1\n}\n", "has blocks in braces: PATH, line 1"),
        ("<!DOCTYPE html>\n<html>", "class file is a web page: PATH; download the file itself"),
        ("version https://git-lfs.github.com/spec/v1\n", "class file is the pointer of Git LFS"),
        (b"\x00\x01", "class file is not UTF-8 text: PATH, line 1"),
        ('"a""b",c\n"x"y,1\n', "quotes do not match: PATH, line 2"),
    ):
        path = written(tmp_path, text)
        with pytest.raises(DataError, match=message.replace("PATH", str(path))):
            read_classes(path)


def test_the_name_of_a_file_is_told_from_words(tmp_path: Path) -> None:
    list_of_words = str(written(tmp_path, "cat\ndog\n", "words.list"))
    for file in ("none.txt", list_of_words, f"cat, {list_of_words}"):  # a missing one is a slip, and no word either
        assert file_among(file) == file.removeprefix("cat, ")
    for words in ("cat", "a dog, a cat", "st. bernard", "cat/dog", "x" * 5000, str(tmp_path)):
        assert file_among(words) is None


def test_published_class_files_are_read_as_they_are(shared: Path) -> None:
    sizes = {"ade20k_847": 847, "ade20k_150": 150, "coco_panoptic": 133, "lvis_1203": 1203, "pascal_voc_21": 21}
    for name, count in sizes.items():
        classes = read_classes(shared / "reference" / "class_names" / f"{name}_with_prompt_eng.txt")
        vocabulary, first = classes.vocabulary, 0 if name == "pascal_voc_21" else 1
        assert (len(vocabulary), classes.ids[0]) == (count, first)
        assert all(len({word.casefold() for word in words}) == len(words) for words in vocabulary.classes)
