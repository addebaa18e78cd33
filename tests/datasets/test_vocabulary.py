"""Vocabularies made of names, and which of their classes are seen."""

from __future__ import annotations

import pytest

from opentrans_cli.datasets.vocabulary import Vocabulary
from opentrans_cli.errors import DataError


def test_faulty_names_are_refused() -> None:
    with pytest.raises(DataError, match="no class named"):
        Vocabulary.from_names([])
    with pytest.raises(DataError, match=r"'cat' names two classes: class 0 \('cat'\) and class 2 \('cat'\)"):
        Vocabulary.from_names(["cat", "dog", "cat"])
    with pytest.raises(DataError, match="empty class name"):
        Vocabulary.from_names(["cat", " "])


def test_bars_separate_synonyms_and_a_backslash_keeps_one() -> None:
    assert Vocabulary.from_names(["cat | kitten,puss", r"a\|b"]).classes == (("cat", "kitten", "puss"), ("a|b",))
    for names, message in (
        (["cat||kitten"], r"empty class name: class 0 \('cat\|\|kitten'\); remove the extra bar"),
        (["cat|Cat"], "'cat' occurs twice in one class"),
        (["cat|kitten", "dog|kitten"], r"'kitten' names two classes: class 0 \(.*\) and class 1"),
    ):
        with pytest.raises(DataError, match=message):
            Vocabulary.from_names(names)


def test_a_class_is_seen_when_any_synonym_was_whatever_the_case() -> None:
    vocabulary = Vocabulary.from_names(["cat,kitten", "dog", "bus,coach"])
    assert vocabulary.seen_by(["Kitten", " coach ", "do"]) == (True, False, True)
    assert vocabulary.seen_by([]) == (False, False, False)
