"""Pages: whole documents that ask for nothing, and show foreign text as text."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from opentrans_cli.pictures.page import Page, PagePicture

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

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_is_whole_and_needs_neither_network_nor_script() -> None:
    foreign = '<script src="http://x.example/a.js">"&amp;\''
    page = Page(foreign)
    page.heading(foreign)
    page.text(foreign)
    page.lines(foreign)
    page.table(["name", foreign], [[foreign, "1"], ["b", "2"]], shares=[0.25, 1.0])
    page.pictures([PagePicture(b"\x89PNG", foreign)])
    page.links([(foreign, foreign)])
    tree = Tree()
    tree.feed(page.html())
    assert tree.open == [] and tree.text.count(foreign) == 10
    tags = [tag for tag, _ in tree.seen]
    assert "script" not in tags and "link" not in tags
    addresses = [value for _, attributes in tree.seen for name, value in attributes.items() if name in ("src", "href")]
    assert [str(address)[:5] for address in addresses] == ["data:", "%3Csc"]
    assert not re.search(r"url\(|@import|https?:", re.search("<style>(.*)</style>", page.html(), re.S)[1])  # type: ignore[index]
    shares = [attributes["style"] for tag, attributes in tree.seen if tag == "td" and "style" in attributes]
    assert shares == ["--share: 25.0%", "--share: 100.0%"]
