"""Pages in a real browser, without a window: nothing is wider than the window, every picture loads, no word is lost.

One browser looks at all of them. Without one the tests are skipped; Debian's package is `chromium`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from browser import NAMES, Browser, browser, find_browser

from opentrans_cli.bundle.store import open_bundle
from opentrans_cli.reporter import SILENT
from opentrans_cli.steps.report.gallery import write_gallery
from opentrans_cli.steps.report.report import report

from .conftest import FOREIGN, curve, evaluation, write_segmented

WIDTHS = (360, 1280)
"""A phone, and a desk."""

# Everything that reaches beyond the window, except inside what scrolls by itself.
_TOO_WIDE = """
[...document.querySelectorAll("body *")].filter(it => it.getBoundingClientRect().right > innerWidth + 0.5
  && ![".scroll", "pre", "svg"].some(kind => it.closest(kind) && it.closest(kind) !== it))
  .map(it => it.outerHTML.slice(0, 80))
"""
_LOADED = """
(async () => {
  for (const image of document.images) { image.loading = "eager"; await image.decode(); }
  return [...document.images].map(image => [image.naturalWidth, image.clientWidth, image.alt]);
})()
"""
_CELLS = """
[...document.querySelectorAll("tr")].map(row => [...row.children].map(cell => cell.innerText.trim()))
"""
_CONTRASTS = """
(() => {
  const light = text => { const [r, g, b] = text.match(/[0-9.]+/g).map(c => { c /= 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ink = ["p", ".note", "thead th", "a", "figcaption", "svg text"].map(kind => document.querySelector(kind));
  return ink.filter(it => it).map(it => { const style = getComputedStyle(it);
    const own = light(it.closest("svg") ? style.fill : style.color);
    return (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05); });
})()
"""


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip(f"no browser is installed ({', '.join(NAMES)}); pages are not looked at")
    with browser(program) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> dict[str, Path]:
    """The page of a folder of runs, which has every section, and a gallery."""
    folder = tmp_path_factory.mktemp("pages")
    document = write_segmented(folder / "labelled", photos=folder / "photos")
    write_gallery(folder / "labelled", document, home=folder / "labelled", reporter=SILENT)
    return {
        "runs": report(runs, out=folder / "runs.html").path,
        "gallery": folder / "labelled" / "gallery.html",
    }


@pytest.mark.parametrize("name", ["runs", "gallery"])
def test_a_page_fits_every_window_and_asks_for_nothing(name: str, pages: dict[str, Path], window: Browser) -> None:
    window.open(pages[name], width=WIDTHS[0])
    for width in WIDTHS:
        window.resize(width)
        assert window.run("document.scrollingElement.scrollWidth") <= width
        assert window.run(_TOO_WIDE) == []
        pictures = window.run(_LOADED)
        assert pictures and all(own > 0 and shown > 30 and alt for own, shown, alt in pictures)
    levels = [
        int(level) for level in window.run('[...document.querySelectorAll("h1,h2,h3,h4,h5,h6")].map(h => h.tagName[1])')
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = window.run(
        '[...document.querySelectorAll("a[href^=\\\\#]")].map(a => document.querySelector(a.hash) !== null)'
    )
    assert all(ids)
    assert window.complaints == []
    assert [address for address in window.requests if not address.startswith("data:")] == [
        pages[name].resolve().as_uri()
    ]


def test_the_numbers_that_people_see_are_those_of_the_documents(
    pages: dict[str, Path], runs: Path, window: Browser
) -> None:
    window.open(pages["runs"], width=WIDTHS[0])
    rows = window.run(_CELLS)
    told = {tuple(row) for row in rows}
    for entry in evaluation()["per_class"]:
        if entry["iou"] is not None:
            assert (entry["name"], f"{100 * entry['iou']:.1f}", "yes" if entry["seen"] else "no") in told
    for point in curve()["points"]:
        assert any(row[:2] == [f"{100 * point['sparsity']:.1f}", f"{100 * point['miou']:.1f}"] for row in rows)
    for layer in open_bundle(runs / "subnet").manifest.layers:
        assert any(row[0] == layer.name and f"{layer.kept:,}" in row for row in rows)
    assert FOREIGN in window.run("document.body.innerText")
    window.open(pages["gallery"], width=WIDTHS[1])
    text = " ".join(window.run("document.body.innerText").split())
    for entry in json.loads((pages["gallery"].parent / "segment.json").read_text())["images"]:
        assert entry["name"] in text
        for name, share in entry["classes"].items():
            assert f"{name} {share:.0%}".replace("%", " %") in text


def test_letters_stand_out_by_day_and_by_night(pages: dict[str, Path], window: Browser) -> None:
    """At least 4.5 to 1, as WCAG 2 asks of text."""
    papers = []
    for dark in (False, True):
        window.open(pages["runs"], width=WIDTHS[0], dark=dark)
        contrasts = window.run(_CONTRASTS)
        assert len(contrasts) == 6 and min(contrasts) >= 4.5, contrasts
        papers.append(window.run("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] != papers[1]


def test_a_page_is_printed_whole_on_white_paper(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["runs"], width=WIDTHS[1], dark=True)
    printed = window.pdf()
    assert printed.startswith(b"%PDF-") and b"%%EOF" in printed[-32:]
    sheets = len(re.findall(rb"/Type\s*/Page\b", printed))
    parts = pages["runs"].read_text().count('<section id="part-')
    assert sheets > parts  # each begins a new one
    window.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert window.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    # A4 less its margins, in CSS pixels: nothing may be cut at the edge of the paper, where nobody can scroll.
    window.resize(688)
    wide = '[...document.querySelectorAll("body *")].filter(it => it.getBoundingClientRect().right > innerWidth + 0.5)'
    assert window.run(f"{wide}.map(it => it.outerHTML.slice(0, 80))") == []
    window.call("Emulation.setEmulatedMedia", media="")
