"""One HTML file with everything in it: text, tables, charts and pictures, for any width of window and for paper.

The page asks for nothing from outside and runs no script, so it can be mailed, archived, or opened from a disk. All
text given is escaped. Charts are SVG in the page itself: beside PNG they are a tenth of the size, sharp at any width,
and follow the colours of the reader's system. Whatever a chart shows stands in a table too.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import quote

_STYLE = """
:root { color-scheme: light dark; --ink: #20242a; --muted: #5c636b; --rule: #d3d7dc; --paper: #fff; --bar: #b5d3ee;
  --link: #0b5cad; --one: #0072b2; --two: #c04f00; --three: #00795a; --four: #a8467f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --muted: #a9b0b8; --rule: #444a52; --paper: #17191c; --bar: #2b5178; --link: #8cc4ff;
    --one: #56b4e9; --two: #f0a030; --three: #2fc79b; --four: #e59ac4; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; font: 1rem/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1, h2, h3, h4 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.1rem; margin: 1.75rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
a { color: var(--link); }
p, li { max-width: 45rem; overflow-wrap: anywhere; }
.note { color: var(--muted); font-size: .875rem; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 0 .35rem .9rem; text-align: right; border-bottom: 1px solid var(--rule); font-weight: 400; }
td { white-space: nowrap; }
thead th { color: var(--muted); vertical-align: bottom; }
.text { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
tr > :first-child { padding-left: 0; text-align: left; min-width: 5rem; max-width: 24rem; overflow-wrap: break-word; }
.scroll tr > :first-child { position: sticky; left: 0; background: var(--paper); }
td.bar { background: linear-gradient(var(--bar), var(--bar)) no-repeat left .9rem center /
  calc((100% - 4.4rem) * var(--share)) 1.1rem; min-width: 9rem; }
.row { --each: calc((100% - (var(--count) - 1) * 1rem) / var(--count)); display: grid; gap: 1rem; margin: 0 0 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, max(var(--least), min(var(--each), 24rem))), 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { color: var(--muted); font-size: .875rem; padding: .2rem 0; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--muted); }
.key, .chips { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .1rem 1rem; }
.key svg { display: inline-block; width: 2rem; vertical-align: -.1em; margin-right: .35rem; }
.chip { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em;
  border: 1px solid var(--muted); }
.cards { display: grid; gap: 1.5rem 1.25rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.card { min-width: 0; content-visibility: auto; contain-intrinsic-size: auto 21rem; }
.card h3, .card h4 { font-size: 1rem; margin: 0 0 .25rem; }
.card .row { margin: 0 0 .25rem; }
.card .chips { font-size: .875rem; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--rule); border-radius: 4px; }
@media (max-width: 40rem) {
  body { padding: .75rem; }
  table { font-size: .875rem; }
  th, td { padding-left: .6rem; }
  tr > :first-child { max-width: 9.5rem; }
  td.bar { background-position: left .6rem center; background-size: calc((100% - 3.7rem) * var(--share)) 1.1rem;
    min-width: 7rem; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --muted: #444; --rule: #bbb; --paper: #fff; --bar: #b5d3ee; --link: #000;
    --one: #0072b2; --two: #c04f00; --three: #00795a; --four: #a8467f; }
  @page { margin: 14mm; }
  body { padding: 0; max-width: none; font-size: 9.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .scroll { overflow: visible; }
  .scroll tr > :first-child { position: static; }
  table { font-size: 8.5pt; }
  th, td { white-space: normal; padding-left: .5rem; }
  .text, tr > :first-child { min-width: 4rem; }
  td.bar { background-position: left .5rem center; background-size: calc((100% - 3.2rem) * var(--share)) 1em;
    min-width: 6rem; }
  thead { display: table-header-group; }
  tr, figure, .card, li { break-inside: avoid; }
  h1, h2, h3, h4 { break-after: avoid; }
  main > section + section { break-before: page; }
  .card { content-visibility: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""
# Charts and pictures lie in the page; nothing else may be loaded, whatever a text might smuggle in.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_MEDIA = {b"\x89PNG": "png", b"RIFF": "webp"}  # by how a file begins; any other is a JPEG

_LAZY = ' loading="lazy" decoding="async"'  # decoded when they come near the window


@dataclass(frozen=True)
class PagePicture:
    """A PNG, JPEG or WebP file and what it shows."""

    content: bytes = field(repr=False)
    caption: str
    alt: str = ""  # what a reader who does not see it should know; "" = the caption
    size: tuple[int, int] | None = None  # width and height in pixels, so that nothing jumps while the page loads
    link: str = ""  # address of the whole file


@dataclass(frozen=True)
class PageChart:
    """A chart as an `<svg>` element, what it shows, and the lines of its key, elements too."""

    svg: str = field(repr=False)
    caption: str
    key: Sequence[tuple[str, str]] = ()  # a sample as `<svg>`, and its meaning


@dataclass(frozen=True)
class BarCell:
    """A cell with a bar behind its text."""

    text: str
    share: float  # length of the bar, in [0, 1]


@dataclass(frozen=True)
class ColourCell:
    """A cell, or an entry of a list, with a chip of a colour before its text."""

    text: str
    colour: tuple[int, int, int] | None  # RGB; None: an empty frame


@dataclass(frozen=True)
class LinkCell:
    """A cell that leads to a place of the page, or to a file."""

    text: str
    address: str


PageCell = str | BarCell | ColourCell | LinkCell


class Page:
    """A page that grows from top to bottom. `beside` is the folder that it is put into, from which links are told."""

    def __init__(self, title: str, *, beside: Path = Path()) -> None:
        self._title = title
        self._beside = beside
        self._level = 2
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def address(self, path: Path) -> str:
        """The address of a file or folder, for links: its path from the page's own folder, if it has one."""
        try:
            return Path(os.path.relpath(path, self._beside)).as_posix()
        except ValueError:  # on another drive
            return Path(os.path.abspath(path)).as_posix()

    @contextmanager
    def part(self, title: str, *, anchor: str = "") -> Iterator[None]:
        """A part with an own heading, to which links lead by "#" and its `anchor`; headings inside are a level lower.

        On paper a part that is in no other begins a new page.
        """
        level, place = self._level, f' id="{escape(anchor)}"' if anchor else ""
        self._parts.append(f"<section{place}><h{level}>{escape(title)}</h{level}>")
        self._level = level + 1
        yield
        self._level = level
        self._parts.append("</section>")

    def heading(self, text: str) -> None:
        """A heading within the part."""
        self._parts.append(f"<h{self._level}>{escape(text)}</h{self._level}>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def note(self, text: str) -> None:
        """A paragraph in small grey letters."""
        self._parts.append(f'<p class="note">{escape(text)}</p>')

    def lines(self, text: str) -> None:
        """Text as it stands, such as commands."""
        self._parts.append(f'<pre tabindex="0">{escape(text)}</pre>')

    def facts(self, facts: Mapping[str, str]) -> None:
        """A table of two columns, a name and what it is; nothing where there are none."""
        if facts:
            self.table(("", ""), [list(pair) for pair in facts.items()], texts=(1,))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[PageCell]], *, texts: Collection[int] = ()) -> None:
        """A table of numbers; the first column, and those whose places are in `texts`, hold words."""
        body = []
        for row in rows:
            cells = (_cell(cell, first=place == 0, words=place in texts) for place, cell in enumerate(row))
            body.append(f"<tr>{''.join(cells)}</tr>")
        head = ""
        if any(columns):
            names = (
                f'<th scope="col"{" class=text" if place in texts else ""}>{escape(name)}</th>'
                for place, name in enumerate(columns)
            )
            head = f"<thead><tr>{''.join(names)}</tr></thead>"
        self._parts.append(
            f'<div class="scroll" tabindex="0"><table>{head}<tbody>{"".join(body)}</tbody></table></div>'
        )

    def pictures(self, pictures: Sequence[PagePicture], *, least: int = 140) -> None:
        """Pictures beside each other, as many in a line as fit with `least` pixels each."""
        self._parts.append(_row((_figure(picture) for picture in pictures), least))

    def charts(self, charts: Sequence[PageChart], *, least: int = 340) -> None:
        """Charts beside each other, as many in a line as fit with `least` pixels each."""
        self._parts.append(_row((_chart(chart) for chart in charts), least))

    def cards(self, cards: Sequence[tuple[str, Sequence[PagePicture], Sequence[ColourCell]]]) -> None:
        """Small parts of the last heading beside each other: a name, pictures, a list of colours with their meaning."""
        body = []
        for name, pictures, chips in cards:
            items = "".join(f"<li>{_marked(chip)}</li>" for chip in chips)
            body.append(
                f'<article class="card"><h{self._level + 1}>{escape(name)}</h{self._level + 1}>'
                f"{_row((_figure(picture, lazy=True) for picture in pictures), 140)}"
                f'<ul class="chips">{items}</ul></article>'
            )
        self._parts.append(f'<div class="cards">{"".join(body)}</div>')

    def links(self, places: Sequence[tuple[str, str]]) -> None:
        """A list of files or folders, by address, each with what it is."""
        items = "".join(f'<li><a href="{_href(path)}">{escape(path)}</a>: {escape(what)}</li>' for path, what in places)
        self._parts.append(f"<ul>{items}</ul>")

    def contents(self, parts: Mapping[str, str]) -> None:
        """A list of the parts of the page, by anchor, each with its title."""
        items = "".join(f'<li><a href="#{escape(anchor)}">{escape(title)}</a></li>' for anchor, title in parts.items())
        self._parts.append(f'<nav aria-label="Contents"><ul>{items}</ul></nav>')

    def html(self) -> str:
        """The whole page."""
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
                f"<title>{escape(self._title)}</title><style>{_STYLE}</style></head>",
                "<body><main>",
                *self._parts,
                "</main></body>",
                "</html>",
                "",
            ]
        )


def _href(address: str) -> str:
    return address if address.startswith("#") else quote(address)


def _row(figures: Iterable[str], least: int) -> str:
    """Figures beside each other: all in one line, at most 24rem wide each, or as many as fit with `least` pixels."""
    inside = list(figures)
    return f'<div class="row" style="--least: {least}px; --count: {len(inside)}">{"".join(inside)}</div>'


def _cell(cell: PageCell, *, first: bool, words: bool) -> str:
    if isinstance(cell, BarCell) and not first:
        share = min(max(cell.share, 0.0), 1.0)
        return f'<td class="bar" style="--share: {share:.4f}">{escape(cell.text)}</td>'
    inside = _marked(cell)
    if first:
        return f'<th scope="row">{inside}</th>'
    return f'<td class="text">{inside}</td>' if words else f"<td>{inside}</td>"


def _marked(cell: PageCell) -> str:
    if isinstance(cell, ColourCell):
        colour = "transparent" if cell.colour is None else "rgb({}, {}, {})".format(*cell.colour)
        return f'<span class="chip" style="background: {colour}"></span>{escape(cell.text)}'
    if isinstance(cell, LinkCell):
        return f'<a href="{_href(cell.address)}">{escape(cell.text)}</a>'
    return escape(cell if isinstance(cell, str) else cell.text)


def _figure(picture: PagePicture, *, lazy: bool = False) -> str:
    kind = next((kind for start, kind in _MEDIA.items() if picture.content.startswith(start)), "jpeg")
    size = "" if picture.size is None else ' width="{}" height="{}"'.format(*picture.size)
    image = (
        f'<img alt="{escape(picture.alt or picture.caption)}"{size}{_LAZY if lazy else ""} '
        f'src="data:image/{kind};base64,{base64.b64encode(picture.content).decode()}">'
    )
    if picture.link:
        image = f'<a href="{_href(picture.link)}">{image}</a>'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _chart(chart: PageChart) -> str:
    items = "".join(f"<li>{sample}{escape(meaning)}</li>" for sample, meaning in chart.key)
    key = f'<ul class="key">{items}</ul>' if items else ""
    return f"<figure>{chart.svg}<figcaption>{key}{escape(chart.caption)}</figcaption></figure>"
