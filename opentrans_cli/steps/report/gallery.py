"""The gallery of what `segment` wrote: from its report, its label maps and the photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opentrans_cli.files.atomic import write_file
from opentrans_cli.pictures.gallery import GalleryColours, GalleryItem, add_gallery
from opentrans_cli.pictures.page import Page

GALLERY = "gallery.html"
"""The page in the folder of `segment`."""


def write_gallery(
    folder: Path, document: Mapping[str, Any], photos: Mapping[str, Path], *, home: Path | None = None
) -> Path:
    """Write gallery.html into `folder`, which holds the files of `document`, a segment report; returns its path.

    photos: by name of a picture the photo it was made of. home: where the folder will be, if it is moved when it is
    complete; links are told from there, and the page has its name.
    """
    home = folder if home is None else home
    page = Page(home.name, beside=home)
    add_segmented(page, folder, document, photos, home=home)
    path = folder / GALLERY
    write_file(path, [page.html().encode()])
    return path


def add_segmented(
    page: Page, folder: Path, document: Mapping[str, Any], photos: Mapping[str, Path], *, home: Path
) -> None:
    """Add what a segment report says to `page`: the classes, and a card for each picture. Arguments as above."""
    vocabulary, images = document["vocabulary"], document["images"]
    how = f" by {document['framework']}" if "framework" in document else ""
    page.text(
        f"{len(images):,} {'picture' if len(images) == 1 else 'pictures'} labelled{how}, {len(vocabulary):,} classes."
    )
    ids = document.get("ids") or range(len(vocabulary))
    items = list(_items(page, folder, images, photos, home))
    faults = [*document.get("skipped", ()), *add_gallery(page, items, GalleryColours(vocabulary, ids))]
    if faults:
        page.heading("Left out")
        page.table(["picture and reason"], [[line] for line in faults])


def _items(
    page: Page, folder: Path, images: list[dict[str, Any]], photos: Mapping[str, Path], home: Path
) -> Iterator[GalleryItem]:
    for entry in images:
        photo = photos.get(entry["name"])
        yield GalleryItem(
            entry["name"],
            photo,
            folder / Path(entry["label_map"]).name,  # a foreign report may name any file
            folder / Path(entry["overlay"]).name,
            "" if photo is None else page.address(photo),
            page.address(home / Path(entry["overlay"]).name),
            entry["classes"],
        )
