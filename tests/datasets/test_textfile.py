"""Entries of text files keep their line numbers, and captions name the words of images, each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from opentrans_cli.datasets.textfile import read_captions, read_entries
from opentrans_cli.errors import DataError


def test_line_numbers_count_skipped_lines_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf# head\r\n\r\nfirst\r\n  second # not a comment\n")
    assert read_entries(path, "split list") == [(3, "first"), (4, "second # not a comment")]


def test_captions_keep_the_order_of_words_and_a_line_that_says_nothing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions.tsv"
    path.write_text("# of two\na/1\tred dog, grass,red dog,,\n\nb\tship\n")
    assert read_captions(path) == {"a/1": ("red dog", "grass"), "b": ("ship",)}
    for text, message in (
        ("a dog\n", "no stem, tab and words: .*, line 1; "),
        ("a\tdog\nb\t, ,\n", "no stem, tab and words: .*, line 2; "),
        ("a\tdog\na\tcat\n", "'a' occurs twice: .*, line 2; "),
        ("", "captions is empty"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_captions(path)
