"""Published figures, to stand beside measured ones: `assets/published_scores.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentrans_cli import assets


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table."""

    name: str
    published: str  # where: "arXiv 2404.07448, Table 1"
    framework: str
    params: int | None
    macs: int | None
    resolution: tuple[int, int] | None  # height and width in pixels, of the MACs
    scores: Mapping[str, Mapping[str, float]]  # data set -> "miou", "pq" or "ap" -> fraction


@dataclass(frozen=True)
class PublishedScores:
    """All rows, and what has to be known to read them."""

    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]


def published_scores() -> PublishedScores:
    """The rows in the order of their tables."""
    text = Path(assets.__file__).with_name("published_scores.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return PublishedScores(tuple(map(_row_of, document["rows"])), tuple(document["notes"]))


def _row_of(row: dict[str, Any]) -> PublishedRow:
    size = row["resolution"]
    return PublishedRow(**{**row, "resolution": None if size is None else (size[0], size[1])})
