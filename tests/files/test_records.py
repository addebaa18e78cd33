"""Records: what goes in comes out, and nothing else goes in."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from opentrans_cli.errors import BundleError
from opentrans_cli.files.records import Record, json_bytes, parse_json, plain_json


@dataclass(frozen=True)
class Leaf(Record):
    name: str
    size: float


@dataclass(frozen=True)
class Tree(Record):
    leaves: tuple[Leaf, ...]
    words: tuple[tuple[str, ...], ...]
    count: int
    seed: int | None
    best: Leaf | None
    versions: dict[str, str]
    options: dict[str, Any]


def tree(**changes: Any) -> Tree:
    fields: dict[str, Any] = {
        "leaves": (Leaf(name="a", size=1),),
        "words": (("sky", "clouds"), ()),
        "count": 3,
        "seed": None,
        "best": Leaf(name="b", size=0.5),
        "versions": {"numpy": "2"},
        "options": {"pair": (1, 2), "deep": {"x": [None, True, "é"]}},
    }
    return Tree(**{**fields, **changes})


def test_a_record_survives_json_and_equals_itself() -> None:
    text = json_bytes(tree().to_json())
    assert Tree.from_json(parse_json(text, "x")) == tree()
    assert json_bytes(Tree.from_json(parse_json(text, "x")).to_json()) == text


def test_tuples_inside_options_become_lists_at_once_so_that_reading_back_gives_an_equal_record() -> None:
    assert tree().options["pair"] == [1, 2]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"count": 1.0}, "count is not a whole number"),
    ({"count": True}, "count is not a whole number"),
    ({"count": np.int64(1)}, "count is not a whole number"),
    ({"seed": "1"}, "seed is not a whole number"),
    ({"leaves": "ab"}, "leaves is not a list"),
    ({"leaves": [1]}, r"leaves\[0\] is not an object"),
    ({"leaves": [{"name": "a"}]}, r"leaves\[0\] lacks 'size'"),
    ({"leaves": [{"name": "a", "size": 1, "more\n": 2}]}, r"unknown key 'more\\n'"),
    ({"leaves": [{"name": "a", "size": math.inf}]}, r"leaves\[0\].size is not a finite number"),
    ({"leaves": [{"name": "a", "size": 10**400}]}, r"size is not a finite number"),
    ({"leaves": [{"name": "a", "size": False}]}, r"size is not a number"),
    ({"words": [["a\x1b[31m"]]}, "control characters"),
    ({"words": [["\ud800"]]}, "control characters"),
    ({"words": [["road\u202edaor"]]}, "control characters"),
    ({"words": [["two\u2028lines"]]}, "control characters"),
    ({"options": {"a": ["\x1b[31m"]}}, "control characters"),
    ({"options": {"\n": 1}}, "control characters"),
    ({"options": {"a": 10**400}}, "not a finite number"),
    ({"best": []}, "best is not an object"),
    ({"versions": {"a": 1}}, "versions.a is not text"),
    ({"versions": []}, "versions is not an object"),
    ({"options": {"a": math.nan}}, "options.a is not a finite number"),
    ({"options": {"a": {1, 2}}}, "options.a is a set"),
    ({"options": {1: 2}}, "options is not text"),
    ({"options": {"a": {"b\nc": {"x": 2}}}}, r"options.a holds control characters"),
    ({"options": {"a": {1: 2}}}, "options.a has the key 1, which is not text"),
]


def test_wrong_values_are_refused_in_code_and_in_documents_with_the_place() -> None:
    for change, message in WRONG:
        for build in (lambda c=change: tree(**c), lambda c=change: Tree.from_json({**tree().to_json(), **c})):
            with pytest.raises(BundleError, match=message) as caught:
                build()
            assert "\n" not in str(caught.value)


def test_nesting_is_bounded() -> None:
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep]
    with pytest.raises(BundleError, match="levels deep"):
        plain_json(deep, "x")


def test_text_that_is_not_strict_json_is_one_line_of_error() -> None:
    texts = [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": -Infinity}', b'{"a": 1, "a": 2}', b"[" * 100_000]
    for text in (*texts, b"9" * 5000, b'{"a": 1} x', b"{\n\n}}"):
        with pytest.raises(BundleError, match="not readable as JSON: here") as caught:
            parse_json(text, "here")
        assert "\n" not in str(caught.value)


def test_written_json_is_sorted_and_ends_with_a_newline() -> None:
    assert json_bytes({"b": 1, "a": "é"}) == b'{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        json_bytes({"a": math.nan})
    assert json.loads(json_bytes({"a": "é"})) == {"a": "é"}
