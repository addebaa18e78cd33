"""Pages: whole documents that ask for nothing, and show foreign text as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

from opentrans_cli.pictures.page import BarCell, ColourCell, LinkCell, Page, PageChart, PagePicture
from opentrans_cli.pictures.svg_lines import DrawnLine, line_chart

VOID = {"meta", "img", "br"}


class Tree(HTMLParser):
    """Tags that are open, and all that were read."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Page) -> Tree:
    tree = Tree()
    tree.feed(page.html())
    assert tree.open == []
    return tree


def test_a_page_is_whole_and_needs_neither_network_nor_script(tmp_path: Path) -> None:
    foreign = '<script src="http://x.example/a.js">"&amp;\''
    page = Page(foreign, beside=tmp_path)
    page.heading(foreign)
    page.text(foreign)
    page.note(foreign)
    page.lines(foreign)
    page.facts({foreign: foreign})
    page.table(["name", foreign], [[foreign, BarCell(foreign, 0.25)], [ColourCell(foreign, (1, 2, 3)), "2"]])
    page.table(["", ""], [["b", LinkCell(foreign, foreign)]], texts=(1,))
    page.pictures([PagePicture(b"\x89PNG", foreign, link=foreign)])
    page.cards([(foreign, [PagePicture(b"RIFF", foreign, alt="other")], [ColourCell(foreign, None)])])
    page.charts([PageChart(line_chart([DrawnLine(foreign, [(0, 1)])], x=foreign, y=foreign), foreign)])
    page.links([(foreign, foreign)])
    page.contents({"there": foreign})
    with page.part(foreign, anchor="there"):
        page.text("inside")
    tree = read(page)
    assert tree.text.count(foreign) == 23
    tags = [tag for tag, _ in tree.seen]
    assert "script" not in tags and "link" not in tags
    addresses = [str(value) for _, held in tree.seen for name, value in held.items() if name in ("src", "href")]
    assert {address[:10] for address in addresses} == {"data:image", "%3Cscript%", "#there"}
    assert not re.search(r"url\(|@import|https?:", re.search("<style>(.*)</style>", page.html(), re.S)[1])  # type: ignore[index]
    shares = [str(held["style"]) for tag, held in tree.seen if tag == "td" and "style" in held]
    assert shares == ["--share: 0.2500"]
    assert all(held.get("alt") for tag, held in tree.seen if tag == "img")
    assert all(held.get("aria-label") for tag, held in tree.seen if held.get("role") == "img")


def test_headings_go_down_by_one_level_and_parts_come_back(tmp_path: Path) -> None:
    page = Page("title", beside=tmp_path)
    page.heading("a")
    with page.part("b"):
        page.heading("c")
        with page.part("d"):
            page.heading("e")
            page.cards([("f", [], [])])
        page.heading("g")
    page.heading("h")
    found = [tag for tag, _ in read(page).seen if re.fullmatch("h[1-6]", tag)]
    assert found == ["h1", "h2", "h2", "h3", "h3", "h4", "h5", "h3", "h2"]


def test_links_are_told_from_the_folder_of_the_page(tmp_path: Path) -> None:
    page = Page("title", beside=tmp_path / "pages")
    assert page.address(tmp_path / "runs" / "a b") == "../runs/a b"
