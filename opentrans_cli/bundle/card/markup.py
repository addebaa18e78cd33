"""Text that comes from a manifest or a report, written into Markdown and YAML so that it stays text.

Markdown has many ways to make a link, a picture or HTML out of text; a code span is the one place where all of them are
off, so foreign text stands in code spans alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

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


def yaml_lines(value: object, indent: int = 0) -> Iterator[str]:
    """`value` (mappings, sequences, text, numbers) as lines of block YAML, text always as a quoted JSON string."""
    space = " " * indent
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        start = f"{key}:" if isinstance(value, Mapping) else "-"
        if isinstance(item, Mapping | list) and item:
            yield f"{space}{start}"
            yield from yaml_lines(item, indent + 2)
        else:
            yield f"{space}{start} {_scalar(item)}"


def _scalar(value: object) -> str:
    # JSON's \u escapes of rare characters come in pairs that YAML does not join, so such text is left as it is.
    text = printable(value) if isinstance(value, str) else value
    return json.dumps(text, ensure_ascii=False, allow_nan=False)
