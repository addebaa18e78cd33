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


def test_rows_are_the_synonyms_in_the_order_of_the_classes_at_length_one(tmp_path: Path) -> None:
    for dtype in ("float16", "float32", "float64"):
        given = rows(3).astype(dtype)
        pack = read_pack(saved(tmp_path, given, [entry("cat", "cat", "kitten"), entry("sky", "sky", seen=False)]))
        assert pack.class_indices == (0, 0, 1)
        assert pack.classes == (PackedClass("cat", ("cat", "kitten"), True), PackedClass("sky", ("sky",), False))
        wanted = given.astype(np.float64) / np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
        assert pack.embeddings.dtype == np.float32
        np.testing.assert_allclose(pack.embeddings, wanted, atol=1e-6)


def test_a_class_without_synonyms_has_the_row_of_its_name_and_rows_for_names_come_first(tmp_path: Path) -> None:
    pack = read_pack(saved(tmp_path, rows(3), [entry("cat"), entry("sky", "sky", "clouds")]))
    assert pack.class_indices == (0, 1, 1) and pack.classes[0].texts == ("cat",)
    pack = read_pack(saved(tmp_path, rows(4), [entry("cat", "kitten"), entry("sky", "clouds")]))
    assert [packed.texts for packed in pack.classes] == [("cat", "kitten"), ("sky", "clouds")]
    assert pack.class_indices == (0, 0, 1, 1)


def test_a_pack_is_read_back_as_it_was_written_and_by_the_library(tmp_path: Path) -> None:
    classes = (PackedClass("cat", ("cat", "kitten"), False), PackedClass("ciel \u00e9toil\u00e9", ("sky",), True))
    unit = rows(3) / np.linalg.norm(rows(3), axis=1, keepdims=True)
    for name in ("a", "b"):
        write_pack(tmp_path / name, VocabularyPack(classes, unit, ("a {}", "{}")))
    again = read_pack(tmp_path / "a")
    assert again.classes == classes and again.templates == ("a {}", "{}")
    np.testing.assert_allclose(again.embeddings, unit, atol=1e-7)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(load_file(tmp_path / "a")["embeddings"], unit)


def test_what_is_no_pack_is_refused_by_class_or_row(tmp_path: Path) -> None:
    pair = [entry("a"), entry("b")]
    odd = {value: rows(2) for value in (0.0, float("nan"), float("inf"))}
    for value, given in odd.items():
        given[1] = value
    for given, classes, message in (
        (rows(2), [entry("a", "a", "b"), entry("c")], "has 2 rows for 3 synonyms, 4 with the names"),
        (rows(5), [entry("a", "b"), entry("c", "d")], "has 5 rows for 2 synonyms, 4 with the names"),
        (rows(2), [], "has no list of classes"),
        (rows(2), "cat", "has no list of classes"),
        (rows(2), ["cat", "sky"], "not an object: class 0"),
        (rows(2), [entry("cat"), {"name": "", "synonyms": [], "seen": True}], "have to be words: class 1"),
        (rows(2), [entry("cat"), {"name": "sky", "synonyms": [3], "seen": True}], "have to be words: class 1"),
        (rows(2), [entry("cat"), {"name": "sky", "synonyms": []}], "seen has to be true or false: class 1"),
        (
            rows(2),
            [entry("cat"), {"name": "sky", "synonyms": [], "seen": "no"}],
            "seen has to be true or false: class 1",
        ),
        *((given, pair, "zero, NaN or infinite: row 1 of") for given in odd.values()),
        *((g, pair, "not a vocabulary pack") for g in (rows(2)[0], np.ones((2, 0), np.float32), np.ones((2, 6), int))),
    ):
        with pytest.raises(DataError, match=message):
            read_pack(saved(tmp_path, given, classes))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pack.safetensors"
    for templates in ("a {}", ["a {}", 3], [""]):
        about = json.dumps({"classes": [entry("cat"), entry("sky")], "templates": templates})
        save_file({"embeddings": rows(2)}, path, metadata={"opentrans": about})
        with pytest.raises(DataError, match="templates have to be a list of texts"):
            read_pack(path)
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
