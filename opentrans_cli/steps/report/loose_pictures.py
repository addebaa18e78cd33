"""Pictures in a folder: those with a common beginning, such as 3-photo.png and 3-truth.png, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from opentrans_cli.pictures.page import Page
from opentrans_cli.pictures.thumbnail import page_picture, small_photo

MOST_SHOWN = 200
"""Pictures of a folder on one page."""
_SIDE = 640  # pixels
_ORDER = ("image", "photo", "truth", "dense", "subnet")
"""Kinds of pictures as they are best compared; others come after them."""


def picture_rows(page: Page, paths: Sequence[Path], *, least: int = 160) -> None:
    """Add the pictures at `paths` to `page`, each with its name and a link to the whole file; a note says what is
    left out.
    """
    faults = []
    shown = sorted(paths[:MOST_SHOWN], key=lambda path: (path.parent, _beginning(path), _rank(path)))
    for _, group in groupby(shown, key=lambda path: (path.parent, _beginning(path))):
        row = []
        for path in group:
            try:
                row.append(page_picture(small_photo(path, _SIDE), path.name, link=page.address(path)))
            except OSError as error:
                faults.append(f"{path.name} ({error})")
        if row:
            page.pictures(row, least=least)
    if len(paths) > MOST_SHOWN:
        page.note(f"The first {MOST_SHOWN} of {len(paths):,} pictures are shown.")
    if faults:
        page.note(f"Not readable: {', '.join(faults)}.")


def _beginning(path: Path) -> str:
    """What pictures that belong together share: the name up to its first hyphen, if there is one."""
    head, hyphen, _ = path.stem.partition("-")
    return head if hyphen and head.isdigit() else ""


def _rank(path: Path) -> int:
    kind = path.stem.rpartition("-")[2]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
