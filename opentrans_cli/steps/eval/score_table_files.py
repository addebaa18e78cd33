"""The table of several evaluations as a file: Markdown, CSV, LaTeX or JSON, by its suffix."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from opentrans_cli.errors import OptionError
from opentrans_cli.files.figures import percent
from opentrans_cli.files.records import json_bytes
from opentrans_cli.steps.eval.score_table import METRICS, ScoreCell, ScoreRow, ScoreTable

MEASURED = "measured"
BEST = "the best of its column, where at least two rows agree in their protocols"


def check_table_file(path: Path) -> None:
    """Raises OptionError for a suffix of which nothing can be written."""
    if path.suffix not in _WRITERS:
        raise OptionError(f"no kind of table: --out {path}; end it in {', '.join(_WRITERS)}")


def table_bytes(table: ScoreTable, suffix: str) -> bytes:
    """`table` as the content of a file with this suffix; equal tables give equal bytes."""
    return _WRITERS[suffix](table)


def cost_texts(row: ScoreRow) -> dict[str, str]:
    """Size, arithmetic and time of a row as people read them, by what they are; "-" for what is not known."""
    at = "-" if row.resolution is None else f"{row.resolution[0]} x {row.resolution[1]}"
    return {
        "parameters": _of(row.params_kept, row.params),
        "MACs": _of(row.macs_kept, row.macs),
        "at": at,
        "ms/image": "-" if row.seconds_per_image is None else f"{1000 * row.seconds_per_image:.1f}",
        "device": row.device or "-",
    }


def _of(kept: int | None, whole: int | None) -> str:
    """What is kept and, where something is not, of how much."""
    if kept is None:
        return "-"
    return _count(kept) if whole is None or whole == kept else f"{_count(kept)} of {_count(whole)}"


def _count(count: int) -> str:
    """105600000000 -> "105.6 G": published figures have up to four digits."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return str(count)


def _titles(table: ScoreTable) -> list[str]:
    """The head of each column of scores; mIoU, which every table has, is not named."""
    return [
        column.title if column.metric == "miou" else f"{column.title} {METRICS[column.metric]}"
        for column in table.columns
    ]


def _grid(table: ScoreTable, cell: Callable[[ScoreCell | None], str]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the whole table as texts; where there are published rows, each says which it is."""
    origin = any(row.published for row in table.rows)
    costs = [cost_texts(row) for row in table.rows]
    heads = ["segmentor", *(["from"] if origin else []), *_titles(table), *(costs[0] if costs else ())]
    rows = [
        [
            row.name,
            *([row.published or MEASURED] if origin else []),
            *(cell(row.cells.get(column.key)) for column in table.columns),
            *cost.values(),
        ]
        for row, cost in zip(table.rows, costs, strict=True)
    ]
    return heads, rows


def _markdown(table: ScoreTable) -> bytes:
    def cell(found: ScoreCell | None) -> str:
        if found is None:
            return "-"
        value = f"**{percent(found.value)}**" if found.best else percent(found.value)
        return f"{value} <sup>{' '.join(found.notes)}</sup>" if found.notes else value

    heads, rows = _grid(table, cell)
    texts = 2 if "from" in heads else 1
    marks = ["---" if number < texts else "---:" for number in range(len(heads))]
    lines = [_row(heads), _row(marks), *(_row([_plain_markdown(row[0]), *row[1:]]) for row in rows), ""]
    lines += [f"mIoU in %; bold: {BEST}.", ""]
    lines += [f"<sup>{letter}</sup> {_plain_markdown(text)}.  " for letter, text in table.notes]
    lines += ["", *(f"Published: {_plain_markdown(text)}  " for text in table.remarks)] if table.remarks else []
    return ("\n".join(lines).rstrip() + "\n").encode()


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain_markdown(text: str) -> str:
    """`text` so that no character of it has a meaning in Markdown."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>|#" else char for char in text)


def _csv(table: ScoreTable) -> bytes:
    """One head, one row each; scores in percent, the rest in plain units; the texts of notes in the last column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    scores = [column.key.replace(" ", "_") for column in table.columns]
    costs = ["params_kept", "params", "macs_kept", "macs", "height", "width", "ms_per_image", "device"]
    writer.writerow(["name", "from", "framework", *scores, *costs, "notes"])
    texts = dict(table.notes)
    for row in table.rows:
        found = [row.cells.get(column.key) for column in table.columns]
        told = [
            f"{head}: {texts[letter]}"
            for head, cell in zip(scores, found, strict=True)
            for letter in (cell.notes if cell else ())
        ]
        seconds = row.seconds_per_image
        writer.writerow(
            [
                row.name,
                row.published or MEASURED,
                row.framework,
                *("" if cell is None else f"{100 * cell.value:.4f}" for cell in found),
                *("" if each is None else each for each in (row.params_kept, row.params, row.macs_kept, row.macs)),
                *(row.resolution or ("", "")),
                "" if seconds is None else f"{1000 * seconds:.3f}",
                row.device or "",
                "; ".join(told),
            ]
        )
    return file.getvalue().encode()


def _latex(table: ScoreTable) -> bytes:
    def cell(found: ScoreCell | None) -> str:
        if found is None:
            return "--"
        value = rf"\textbf{{{percent(found.value)}}}" if found.best else percent(found.value)
        return f"{value}$^{{{','.join(found.notes)}}}$" if found.notes else value

    heads, rows = _grid(table, cell)
    texts = 2 if "from" in heads else 1
    first = texts + len(table.columns)
    lines = [rf"\begin{{tabular}}{{{'l' * texts}{'r' * (len(heads) - texts)}}}", r"\hline"]
    lines += [_latex_row(map(_plain_latex, heads)), r"\hline"]
    for row in rows:
        scores = row[texts:first]
        lines.append(_latex_row([*map(_plain_latex, row[:texts]), *scores, *map(_plain_latex, row[first:])]))
    lines += [r"\hline", r"\end{tabular}", "", rf"\par\footnotesize mIoU in \%; bold: {BEST}."]
    lines += [rf"\par\footnotesize $^{{{letter}}}$ {_plain_latex(text)}." for letter, text in table.notes]
    lines += [rf"\par\footnotesize Published: {_plain_latex(text)}" for text in table.remarks]
    return ("\n".join(lines) + "\n").encode()


def _latex_row(cells: Sequence[str] | Iterator[str]) -> str:
    return " & ".join(cells) + r" \\"


_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def _plain_latex(text: str) -> str:
    """`text` so that no character of it has a meaning in LaTeX."""
    return "".join(_LATEX.get(char, char) for char in text)


def _json(table: ScoreTable) -> bytes:
    return json_bytes(table.to_json())


_WRITERS: Mapping[str, Callable[[ScoreTable], bytes]] = {
    ".md": _markdown,
    ".csv": _csv,
    ".tex": _latex,
    ".json": _json,
}
"""By suffix."""
