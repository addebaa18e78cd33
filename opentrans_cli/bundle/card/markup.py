"""Text that comes from a manifest or a report, written into Markdown so that it stays text.

Markdown has many ways to make a link, a picture or HTML out of text; a code span is the one place where all of them are
off, so foreign text stands in code spans alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST = 300
"""Characters of one foreign text that a page for people shows."""


def printable(text: str) -> str:
    r"""`text` in one line: whatever is no visible character (line breaks, escapes, text direction) as \x, \u."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def code_span(text: object) -> str:
    """A Markdown code span that shows `text` and ends where it ends, also inside a table."""
    # No escape of "|" in a table cell is read alike by all programs.
    shown = printable(str(text)[:LONGEST]).replace("|", "¦")
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    # A space at both sides is taken off again; without it a backtick at the end would lengthen the fence.
    return f"{fence} {shown} {fence}" if longest or not shown.strip() else f"{fence}{shown}{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a column whose name starts with ">" is set to the right. Cells are Markdown already."""
    names = [name.removeprefix(">") for name in header]
    rules = ["---:" if name.startswith(">") else "---" for name in header]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [names, rules, *rows])
