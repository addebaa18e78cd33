"""Documents of any kind: the table of their fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from opentrans_cli.bundle.schema import load_schema
from opentrans_cli.pictures.page import Page
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.sections import TITLES

_LONGEST_LIST = 24
_LONGEST_TEXT = 400  # characters
_DEEPEST = 2  # levels of mappings and lists


def facts_section(page: Page, exhibit: Exhibit) -> None:
    """Every field of the document that is a number, a text or a short list."""
    if text := load_schema()["$defs"][exhibit.kind].get("description"):
        page.text(text)
    page.facts(plain_facts(exhibit.document))


def title_of(kind: str) -> str:
    """What documents of a kind are called in headings."""
    return TITLES.get(kind) or str(load_schema()["$defs"][kind]["title"])


def plain_facts(document: Mapping[str, Any], *, without: Collection[str] = ()) -> dict[str, str]:
    """The fields of `document` as text, except those named in `without`; of long lists how many entries they have."""
    return {name.replace("_", " "): _in_words(value) for name, value in document.items() if name not in without}


def told(value: Any) -> str:
    """A value of a document as text: yes and no, numbers with at most six digits after the first."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.7g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    text = str(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."


def _in_words(value: Any, depth: int = 0) -> str:
    """A value in one line: "a 1; b 2", "1, 2, 3", or how many entries there are."""
    if not isinstance(value, Mapping | list | tuple):
        return told(value)
    if len(value) > _LONGEST_LIST or depth == _DEEPEST:
        return f"{len(value):,} entries"
    if isinstance(value, Mapping):
        parts = [f"{name} {_in_words(inner, depth + 1)}".replace("_", " ") for name, inner in value.items()]
        return "; ".join(parts) or "none"
    if any(isinstance(inner, Mapping | list) for inner in value):
        return f"{len(value):,} {'entry' if len(value) == 1 else 'entries'}"
    return ", ".join(told(inner) for inner in value) or "none"
