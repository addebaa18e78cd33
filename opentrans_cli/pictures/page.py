"""One HTML file with everything in it: text, tables and pictures, for any width of window.

The page asks for nothing from outside and runs no script, so it can be mailed, archived, or opened from a disk. All
text given is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

_STYLE = """
:root { color-scheme: light dark; --ink: #20242a; --muted: #666d76; --rule: #d9dce0; --paper: #fff; --bar: #9dbfe6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --muted: #a2a9b2; --rule: #444a52; --paper: #17191c; --bar: #35557d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p, li { max-width: 45rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--muted); font-weight: 500; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 10rem; }
td.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat left center / calc(.65 * var(--share)) 1.2rem; }
td.bar, th.bar { min-width: 9rem; }
.row { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--least)), 1fr));
  margin: 0 0 1.25rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; background: #fff; }
figcaption { color: var(--muted); font-size: .875rem; padding: .2rem 0; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--rule); border-radius: 4px; }
"""


@dataclass(frozen=True)
class PagePicture:
    """A PNG file and what it shows."""

    png: bytes = field(repr=False)
    caption: str


class Page:
    """A page that grows from top to bottom."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A heading of a part."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def lines(self, text: str) -> None:
        """Text as it stands, such as commands."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, shares: Sequence[float] = ()) -> None:
        """A table; the first column is text. `shares`: by row the length in [0, 1] of a bar behind the second."""
        head = "".join(f"<th{_bar(place, shares)}>{escape(name)}</th>" for place, name in enumerate(columns))
        body = []
        for number, row in enumerate(rows):
            cells = []
            for place, cell in enumerate(row):
                style = f' style="--share: {100 * shares[number]:.1f}%"' if _bar(place, shares) else ""
                cells.append(f"<td{_bar(place, shares)}{style}>{escape(cell)}</td>")
            body.append(f"<tr>{''.join(cells)}</tr>")
        self._parts.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
        )

    def pictures(self, pictures: Sequence[PagePicture], *, least: int = 140) -> None:
        """Pictures beside each other, as many in a line as fit with `least` pixels each."""
        shown = "".join(
            f'<figure><img alt="{escape(picture.caption)}" src="data:image/png;base64,'
            f'{base64.b64encode(picture.png).decode()}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
            for picture in pictures
        )
        self._parts.append(f'<div class="row" style="--least: {least}px">{shown}</div>')

    def links(self, places: Sequence[tuple[str, str]]) -> None:
        """A list of files or folders, by their paths from the page's own folder, each with what it is."""
        items = "".join(f'<li><a href="{quote(path)}">{escape(path)}</a>: {escape(what)}</li>' for path, what in places)
        self._parts.append(f"<ul>{items}</ul>")

    def html(self) -> str:
        """The whole page."""
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{escape(self._title)}</title><style>{_STYLE}</style></head>",
                "<body>",
                *self._parts,
                "</body>",
                "</html>",
                "",
            ]
        )


def _bar(place: int, shares: Sequence[float]) -> str:
    return ' class="bar"' if shares and place == 1 else ""
