"""What `segment` wrote: every picture with its label map, and the classes with their shares."""

from __future__ import annotations

from pathlib import Path

from opentrans_cli.pictures.page import Page
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.gallery import add_segmented


def segmented_section(page: Page, exhibit: Exhibit) -> None:
    """The gallery; photos are shown where the report names them and they are still there."""
    add_segmented(page, exhibit.folder, exhibit.document, photos_of(exhibit), home=exhibit.folder)


def photos_of(exhibit: Exhibit) -> dict[str, Path]:
    """By name of a picture its photo, where a segment report names one that is there."""
    named = {entry["name"]: entry.get("photo") for entry in exhibit.document["images"]}
    places = {name: exhibit.folder / photo for name, photo in named.items() if isinstance(photo, str)}
    return {name: path for name, path in places.items() if path.is_file()}
