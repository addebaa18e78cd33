"""What `segment` wrote: every picture with its label map, and the classes with their shares."""

from __future__ import annotations

from opentrans_cli.pictures.page import Page
from opentrans_cli.steps.report.exhibit import Exhibit
from opentrans_cli.steps.report.gallery import add_segmented


def segmented_section(page: Page, exhibit: Exhibit) -> None:
    """The gallery; photos are shown where they still are."""
    add_segmented(page, exhibit.folder, exhibit.document, home=exhibit.folder)
