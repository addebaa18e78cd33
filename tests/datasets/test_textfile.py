"""Entries of text files keep their line numbers."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.datasets.textfile import read_entries


def test_line_numbers_count_skipped_lines_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbf# head\r\n\r\nfirst\r\n  second # not a comment\n")
    assert read_entries(path, "split list") == [(3, "first"), (4, "second # not a comment")]
