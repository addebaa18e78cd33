"""The gallery of what `segment` wrote: from its report, its label maps and the photos."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opentrans_cli.files.atomic import write_file
from opentrans_cli.pictures.gallery import MOST_PICTURES, GalleryColours, GalleryItem, add_gallery
from opentrans_cli.pictures.page import Page
from opentrans_cli.reporter import Advance, Reporter

GALLERY = "gallery.html"
"""The page in the folder of `segment`."""


def write_gallery(folder: Path, document: Mapping[str, Any], *, home: Path, reporter: Reporter) -> None:
    """Write gallery.html into `folder`, which holds the files of `document`, a segment report.

    home: where the folder will be when it is complete; from there the photos are told, and the page has its name.
    """
    page = Page(home.resolve().name, beside=home)
    with reporter.bar("gallery", min(len(document["images"]), MOST_PICTURES)) as advance:
        add_segmented(page, folder, document, home=home, advance=advance)
    write_file(folder / GALLERY, [page.html().encode()])


def add_segmented(
    page: Page, folder: Path, document: Mapping[str, Any], *, home: Path, advance: Advance = lambda status: None
) -> None:
    """Add what a segment report says to `page`: the classes, a card for each picture, and what was left out."""
    count, classes = len(document["images"]), len(document["vocabulary"])
    how = f" by {document['framework']}" if "framework" in document else ""
    page.text(f"{count:,} {'picture' if count == 1 else 'pictures'} labelled{how}, {classes:,} classes.")
    items = list(gallery_items(page, folder, document, home=home).values())
    faults = add_gallery(page, items, gallery_colours(document), advance=advance)
    if left_out := [*document.get("skipped", ()), *faults]:
        page.heading("Left out")
        page.table(["picture and reason"], [[line] for line in left_out])


def gallery_colours(document: Mapping[str, Any]) -> GalleryColours:
    """The colours of the classes of a segment report."""
    names = document["vocabulary"]
    return GalleryColours(names, document.get("ids") or range(len(names)), background=document.get("background"))


def gallery_items(page: Page, folder: Path, document: Mapping[str, Any], *, home: Path) -> dict[str, GalleryItem]:
    """By name the pictures of a segment report whose files lie in `folder`, which will be `home`; their addresses are
    told from the folder of `page`. Photos that are not where the report says are left out.
    """
    items = {}
    for entry in document["images"]:
        # A foreign report may name any file.
        label_map, overlay = (Path(entry[kind]).name if kind in entry else None for kind in ("label_map", "overlay"))
        # Written from the folder's path, which need not be there yet.
        photo = Path(os.path.normpath(home / entry["photo"])) if "photo" in entry else None
        photo = photo if photo is not None and photo.is_file() else None
        items[entry["name"]] = GalleryItem(
            name=entry["name"],
            label_map=folder / str(label_map),
            overlay=None if overlay is None else folder / overlay,
            photo=photo,
            label_link=page.address(home / str(overlay or label_map)),
            photo_link="" if photo is None else page.address(photo),
            classes=entry["classes"],
        )
    return items
