"""A table of `eval --compare`: a row for each segmentor, measured or published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentrans_cli.files.figures import human_count, percent
from opentrans_cli.pictures.page import BarCell, Page, PageCell
from opentrans_cli.steps.report.exhibit import Exhibit


def comparison_section(page: Page, exhibit: Exhibit) -> None:
    """The table, and what has to be known of it."""
    table = exhibit.document
    columns = {column["key"]: column["title"] for column in table["columns"]}
    known = {"params_kept": "parameters kept", "macs_kept": "MACs kept", "seconds_per_image": "s an image"}
    known = {name: title for name, title in known.items() if any(row[name] is not None for row in table["rows"])}
    rows: list[list[PageCell]] = []
    for row in table["rows"]:
        origin = row["name"] if row["published"] is None else f"{row['name']}, published: {row['published']}"
        figures = [_figure(row[name], name) for name in known]
        rows.append([origin, *(_cell(row["cells"].get(key)) for key in columns), *figures])
    page.table(["", *(f"{title}, %" for title in columns.values()), *known.values()], rows)
    page.note("A star marks the best of the measured figures of a column whose protocols agree.")
    for note in table["notes"]:
        page.note(f"{note['letter']}: {note['text']}")
    for remark in table["remarks"]:
        page.note(remark)


def _cell(cell: Mapping[str, Any] | None) -> PageCell:
    if cell is None:
        return "-"
    marks = ("*" if cell["best"] else "") + "".join(cell["notes"])
    return BarCell(f"{percent(cell['value'])} {marks}".rstrip(), cell["value"])


def _figure(value: float | None, name: str) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if name == "seconds_per_image" else human_count(value)
