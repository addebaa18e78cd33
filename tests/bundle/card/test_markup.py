"""Foreign text stays text in Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from opentrans_cli.bundle.card.markup import code_span, printable, table

HOSTILE = [
    "`", "``a`", "a`", "`a", "a``b```c", "a|b", "\\", "\\`", "a\\|b", "<script>x</script>",
    "<img src=x onerror=y>", "[a](http://x)",
    "![a](http://x)", "http://x.org", "www.x.org", "a@b.org", "a\nb", "a\n\n# b", "\n---\n", "&lt;", "*a*",
    "", " ", "  a  ", "-->",
    "\u202eabc", "\u200b", "\x1b[2J", "| --- |", "😀",
]  # fmt: skip
MARKDOWN = MarkdownIt("commonmark").enable("table")


def kinds(text: str) -> list[str]:
    """Names of the elements that Markdown makes of a text, inline ones included."""
    tokens = MARKDOWN.parse(text)
    return [token.type for outer in tokens for token in (outer, *(outer.children or ())) if token.type != "inline"]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_span_is_code_and_nothing_else(text: str) -> None:
    assert kinds(f"a {code_span(text)} b") == ["paragraph_open", "text", "code_inline", "text", "paragraph_close"]


@given(st.text(max_size=30))
def test_a_span_shows_its_text_and_ends_where_it_ends(text: str) -> None:
    (inline,) = [token for token in MARKDOWN.parse(f"a {code_span(text)} b") if token.type == "inline"]
    (code,) = [child for child in inline.children or () if child.type == "code_inline"]
    assert code.content.strip() == printable(text).replace("|", "¦").strip()


@given(st.lists(st.text(max_size=20), min_size=2, max_size=2))
def test_foreign_text_breaks_no_table(cells: list[str]) -> None:
    text = table(("a", ">b"), [[code_span(cell) for cell in cells], ["1", "2"]])
    found = kinds(text)
    assert found.count("tr_open") == 3 and found.count("td_open") == 4 and found.count("code_inline") == 2


@given(st.text())
def test_what_is_printable_is_one_line_without_controls(text: str) -> None:
    assert printable(text).isprintable() and printable(printable(text)) == printable(text)
