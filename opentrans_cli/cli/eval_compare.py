"""What `opentrans eval --compare` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from opentrans_cli.cli.output import plain_table
from opentrans_cli.files.figures import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from opentrans_cli.steps.eval.score_table import ScoreColumn, ScoreRow, ScoreTable

T = TypeVar("T")

_SIDE_BY_SIDE = 7
"""Columns of scores that fit beside names on 80 columns: the paper's."""


def show_comparison(console: Console, table: ScoreTable) -> None:
    """Scores, then size and cost, then the notes; long tables in parts."""
    from opentrans_cli.steps.eval.score_table import METRICS
    from opentrans_cli.steps.eval.score_table_files import BEST

    for metric, called in METRICS.items():
        columns = [column for column in table.columns if column.metric == metric]
        for start in range(0, len(columns), _SIDE_BY_SIDE):
            console.print(_scores(table.rows, columns[start : start + _SIDE_BY_SIDE], f"{called}, %"))
    if any(row.params_kept is not None for row in table.rows):
        console.print(_costs(table.rows))
    lines = [f"* {BEST}"] if any(cell.best for row in table.rows for cell in row.cells.values()) else []
    lines += [f"{letter} {text}" for letter, text in table.notes]
    lines += [f"published: {text}" for text in table.remarks]
    for line in lines:
        console.print(line, markup=False)


def _scores(rows: Sequence[ScoreRow], columns: Sequence[ScoreColumn], title: str) -> Table:
    from rich.markup import escape

    rows = [row for row in rows if any(column.key in row.cells for column in columns)]
    found = [[row.cells.get(column.key) for column in columns] for row in rows]
    marks = [
        max(len(_mark(cell.best, cell.notes)) for cell in column if cell) if any(column) else 0
        for column in zip(*found, strict=True)
    ]
    table = plain_table(title, "", *(f">{_in_two_lines(column.title)}" for column in columns))
    for row, cells in _with_headings(table, rows, found):
        texts = []
        for cell, width in zip(cells, marks, strict=True):
            mark = "" if cell is None else _mark(cell.best, cell.notes)
            text = f"{percent(None if cell is None else cell.value)}{mark:<{width}}"
            texts.append(f"[bold]{text}[/]" if cell is not None and cell.best else text)
        table.add_row(escape(row.name), *texts)
    return _narrow(table)


def _mark(best: bool, notes: Sequence[str]) -> str:
    return ("*" if best else "") + (" " + " ".join(notes) if notes else "")


def _in_two_lines(title: str) -> str:
    """A long word of a head broken, so that seven columns fit."""
    return "City-\nscapes" if title == "Cityscapes" else title.replace(" ", "\n", 1)


def _costs(rows: Sequence[ScoreRow]) -> Table:
    from rich.markup import escape

    from opentrans_cli.steps.eval.score_table_files import cost_texts

    known = [row for row in rows if row.params_kept is not None]
    costs = [tuple(cost_texts(row).values()) for row in known]
    table = plain_table("size, arithmetic, measured time", "", *(f">{name}" for name in cost_texts(known[0])))
    for row, cells in _with_headings(table, known, costs):
        table.add_row(escape(row.name), *(escape(cell.replace(" of ", "\nof ")) for cell in cells))
    return _narrow(table)


def _with_headings(
    table: Table, rows: Sequence[ScoreRow], cells: Sequence[Sequence[T]]
) -> Iterator[tuple[ScoreRow, Sequence[T]]]:
    """The rows with their cells; before the first of each published table a line in `table` that names it."""
    last: str | None = None
    for row, own in zip(rows, cells, strict=True):
        if row.published != last:
            table.add_section()
            table.add_row(f"[italic]published, {row.published}[/]")
            last = row.published
        yield row, own


def _narrow(table: Table) -> Table:
    """Only names are folded where the terminal is narrow, and not inside a word of theirs."""
    table.columns[0].min_width = 16
    for column in table.columns[1:]:
        column.no_wrap = True
    return table
