"""Captions name the words of images, each once, and say where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.datasets.textfile import read_captions
from opentrans_cli.errors import DataError


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_words_stand_in_their_order_and_once(tmp_path: Path) -> None:
    path = written(tmp_path / "captions.tsv", "# of two\na/1\tred dog, grass,red dog,,\n\nb\tship\n")
    assert read_captions(path) == {"a/1": ("red dog", "grass"), "b": ("ship",)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a dog\n", "no stem, tab and words: .*, line 1; "),
        ("a\tdog\nb\t, ,\n", "no stem, tab and words: .*, line 2; "),
        ("a\tdog\na\tcat\n", "'a' occurs twice: .*, line 2; "),
        ("", "captions is empty"),
    ],
)
def test_a_line_that_says_nothing_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_captions(written(tmp_path / "captions.tsv", text))
