"""Vocabulary packs: which row belongs to which class, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from opentrans_cli.datasets.vocabulary_pack import PackedClass, VocabularyPack, read_pack, write_pack
from opentrans_cli.errors import BundleError, DataError


def saved(folder: Path, rows: np.ndarray, classes: Any, **more: Any) -> Path:
    path = folder / "pack.safetensors"
    save_file({"embeddings": rows, **more}, path, metadata={"opentrans": json.dumps({"classes": classes})})
    return path


def entry(name: str, *synonyms: str, seen: bool = True) -> dict[str, Any]:
    return {"name": name, "synonyms": list(synonyms), "seen": seen}


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_are_the_synonyms_in_the_order_of_the_classes_at_length_one(tmp_path: Path, dtype: str) -> None:
    given = rows(3).astype(dtype)
    pack = read_pack(saved(tmp_path, given, [entry("cat", "cat", "kitten"), entry("sky", "sky", seen=False)]))
    assert pack.class_indices == (0, 0, 1)
    assert pack.classes == (PackedClass("cat", ("cat", "kitten"), True), PackedClass("sky", ("sky",), False))
    wanted = given.astype(np.float64) / np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
    assert pack.embeddings.dtype == np.float32
    np.testing.assert_allclose(pack.embeddings, wanted, atol=1e-6)


def test_a_class_without_synonyms_has_the_row_of_its_name(tmp_path: Path) -> None:
    pack = read_pack(saved(tmp_path, rows(3), [entry("cat"), entry("sky", "sky", "clouds")]))
    assert pack.class_indices == (0, 1, 1) and pack.classes[0].texts == ("cat",)


def test_where_there_are_rows_for_the_names_too_they_come_first(tmp_path: Path) -> None:
    pack = read_pack(saved(tmp_path, rows(4), [entry("cat", "kitten"), entry("sky", "clouds")]))
    assert [packed.texts for packed in pack.classes] == [("cat", "kitten"), ("sky", "clouds")]
    assert pack.class_indices == (0, 0, 1, 1)


def test_a_pack_is_read_back_as_it_was_written_and_by_the_library(tmp_path: Path) -> None:
    classes = (PackedClass("cat", ("cat", "kitten"), False), PackedClass("ciel \u00e9toil\u00e9", ("sky",), True))
    unit = rows(3) / np.linalg.norm(rows(3), axis=1, keepdims=True)
    for name in ("a", "b"):
        write_pack(tmp_path / name, VocabularyPack(classes, unit))
    again = read_pack(tmp_path / "a")
    assert again.classes == classes
    np.testing.assert_allclose(again.embeddings, unit, atol=1e-7)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(load_file(tmp_path / "a")["embeddings"], unit)


@pytest.mark.parametrize("count", [2, 5])
def test_another_number_of_rows_is_refused_with_both_counts(tmp_path: Path, count: int) -> None:
    path = saved(tmp_path, rows(count), [entry("a", "a", "b"), entry("c")])
    if count == 5:
        assert read_pack(saved(tmp_path, rows(4), [entry("a", "b"), entry("c", "d")])).class_indices == (0, 0, 1, 1)
        path = saved(tmp_path, rows(count), [entry("a", "b"), entry("c", "d")])
        message = f"{path} has 5 rows for 2 synonyms, 4 with the names"
    else:
        message = f"{path} has 2 rows for 3 synonyms, 4 with the names"
    with pytest.raises(DataError, match=message.replace("[", r"\[")):
        read_pack(path)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "has no list of classes"),
        ("cat", "has no list of classes"),
        (["cat", "sky"], "not an object: class 0"),
        ([entry("cat"), {"name": "", "synonyms": [], "seen": True}], "have to be words: class 1"),
        ([entry("cat"), {"name": "sky", "synonyms": [3], "seen": True}], "have to be words: class 1"),
        ([entry("cat"), {"name": "sky", "synonyms": []}], "seen has to be true or false: class 1"),
        ([entry("cat"), {"name": "sky", "synonyms": [], "seen": "no"}], "seen has to be true or false: class 1"),
    ],
)
def test_classes_that_are_none_are_refused(tmp_path: Path, classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pack(saved(tmp_path, rows(2), classes))


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_row_without_a_direction_is_refused_by_number(tmp_path: Path, value: float) -> None:
    given = rows(2)
    given[1] = value
    with pytest.raises(DataError, match="zero, NaN or infinite: row 1 of"):
        read_pack(saved(tmp_path, given, [entry("a"), entry("b")]))


@pytest.mark.parametrize("given", [rows(2)[0], np.ones((2, 0), np.float32), np.ones((2, 6), np.int64)])
def test_embeddings_are_a_matrix_of_floats(tmp_path: Path, given: np.ndarray) -> None:
    with pytest.raises(DataError, match="not a vocabulary pack"):
        read_pack(saved(tmp_path, given, [entry("a"), entry("b")]))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pack.safetensors"
    save_file({"weights": rows(2)}, path)
    with pytest.raises(DataError, match="has no tensor 'embeddings'"):
        read_pack(path)
    save_file({"embeddings": rows(2)}, path)
    with pytest.raises(DataError, match="has no list of classes"):
        read_pack(path)
    for content in (b"", b"red\ngreen\n", path.read_bytes()[:-3]):
        path.write_bytes(content)
        with pytest.raises(BundleError) as told:
            read_pack(path)
        assert "\n" not in str(told.value)
