"""Class lists: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_each_line_is_a_class_and_commas_separate_synonyms(tmp_path: Path) -> None:
    path = written(tmp_path, "# animals\ncat, kitten\n\n  Dog \r\nfire hydrant\n")
    vocabulary = Vocabulary.from_file(path)
    assert vocabulary.classes == (("cat", "kitten"), ("Dog",), ("fire hydrant",))
    assert vocabulary.names == ("cat", "Dog", "fire hydrant")
    assert len(vocabulary) == 3


def test_names_and_a_file_with_the_same_lines_agree(tmp_path: Path) -> None:
    lines = ["sky,clouds", "grass", "a: b"]
    assert Vocabulary.from_file(written(tmp_path, "\n".join(lines))) == Vocabulary.from_names(lines)


def test_numbered_lines_are_renumbered_without_the_invalid_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "0:invalid_class_id\n1:person,child\n5:car\n12:invalid_class_id\n13:bus\n")
    assert Vocabulary.from_file(path).classes == (("person", "child"), ("car",), ("bus",))


def test_repeats_in_a_numbered_file_keep_the_first_spelling_and_the_name(tmp_path: Path) -> None:
    path = written(tmp_path, "1:pot,Pan,pot,pan\n2:pot\n")
    assert Vocabulary.from_file(path).classes == (("pot", "Pan"), ("pot",))


def test_a_faulty_file_is_refused_with_its_line_and_the_next_move(tmp_path: Path) -> None:
    empty, lost = "class file is empty: PATH; write one entry per line", "write 'id:name' or drop all ids"
    for text, message in (
        ("", empty),
        ("# only a comment\n\n", empty),
        ("cat\nd\xf6g\n".encode("latin-1"), "class file is not UTF-8 text: PATH, line 2; save it as UTF-8"),
        ("cat\ndog,,puppy\n", "empty class name: PATH, line 2; remove the extra comma or write the missing name"),
        ("cat\ndog\nCat\n", "'Cat' names two classes: PATH, line 1 and PATH, line 3; keep it in one"),
        ("cat,pet\n\ndog,Pet\n", "'Pet' names two classes: PATH, line 1 and PATH, line 3; keep it in one"),
        ("cat,puss,Puss\n", "'puss' occurs twice in one class: PATH, line 1; keep it once"),
        ("2:cat\n2:dog\n", "class ids must ascend: PATH, line 2 has 2 after 2; sort the lines by id"),
        ("0:cat\ndog\n", f"line without an id among lines with ids: PATH, line 2; {lost}"),
        ("cat\n1:dog\n", f"line without an id among lines with ids: PATH, line 1; {lost}"),
        ("0:invalid_class_id\n", "class file has only invalid_class_id lines: PATH; write one class per line"),
    ):
        path = written(tmp_path, text)
        with pytest.raises(DataError) as caught:
            Vocabulary.from_file(path)
        assert str(caught.value).replace(str(path), "PATH") == message


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"class file not found: .*none\.txt; check the path"):
        Vocabulary.from_file(tmp_path / "none.txt")
    with pytest.raises(DataError, match="class file cannot be read"):
        Vocabulary.from_file(tmp_path)


def test_faulty_names_are_refused() -> None:
    with pytest.raises(DataError, match="no class named"):
        Vocabulary.from_names([])
    with pytest.raises(DataError, match=r"'cat' names two classes: class 0 \('cat'\) and class 2 \('cat'\)"):
        Vocabulary.from_names(["cat", "dog", "cat"])
    with pytest.raises(DataError, match="empty class name"):
        Vocabulary.from_names(["cat", " "])


def test_a_class_is_seen_when_any_synonym_was_whatever_the_case() -> None:
    vocabulary = Vocabulary.from_names(["cat,kitten", "dog", "bus,coach"])
    assert vocabulary.seen_by(["Kitten", " coach ", "do"]) == (True, False, True)
    assert vocabulary.seen_by([]) == (False, False, False)


def test_published_class_files_are_read_as_they_are(shared: Path) -> None:
    sizes = {"ade20k_847": 847, "ade20k_150": 150, "coco_panoptic": 133, "lvis_1203": 1203, "pascal_voc_21": 21}
    for name, count in sizes.items():
        vocabulary = Vocabulary.from_file(shared / "reference" / "class_names" / f"{name}_with_prompt_eng.txt")
        assert len(vocabulary) == count
        assert all(len({word.casefold() for word in words}) == len(words) for words in vocabulary.classes)
