"""One picture of several data sets: of each a photo, and beside it the photo under its label map with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from opentrans_cli.pictures.legend import INK, PAPER, font_of
from opentrans_cli.pictures.overlay import LEGIBLE_SIDE, overlay
from opentrans_cli.pictures.palette import class_colours

_TITLE = 22
_GAP = 12


class SheetRow(NamedTuple):
    """A photo with its label map."""

    title: str
    image: NDArray[np.uint8]  # (H, W, 3) RGB
    label_map: NDArray[np.int64]  # (H, W), class indices; others are unlabelled
    names: Sequence[str]  # of the classes


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """The rows below each other, each with its title; as wide as the widest, RGB."""
    drawn = [_drawn(row) for row in rows]
    size = max(part.width for part in drawn), sum(part.height for part in drawn)
    sheet, top = Image.new("RGB", size, PAPER), 0
    for part in drawn:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet


def _drawn(row: SheetRow) -> Image.Image:
    # Only the classes that are there are given colours, so that these differ as much as they can.
    there = [index for index in np.unique(row.label_map).tolist() if 0 <= index < len(row.names)]
    names = [row.names[index] for index in there]
    places = np.full(max(int(row.label_map.max()), len(row.names)) + 1, -1)
    places[there] = np.arange(len(there))
    beside = overlay(row.image, places[row.label_map], names, colours=class_colours(names), rest="unlabelled")
    height, width = row.image.shape[:2]
    factor = max(1, -(-LEGIBLE_SIDE // max(height, width)))
    photo = Image.fromarray(row.image.repeat(factor, axis=0).repeat(factor, axis=1))
    font = font_of(_TITLE)
    across = max(photo.width + beside.width + 3 * _GAP, int(font.getlength(row.title)) + 2 * _GAP)
    down = _TITLE + 3 * _GAP + max(photo.height, beside.height)
    page = Image.new("RGB", (across, down), PAPER)
    ImageDraw.Draw(page).text((_GAP, _GAP), row.title, fill=INK, font=font)
    page.paste(photo, (_GAP, _TITLE + 2 * _GAP))
    page.paste(beside, (photo.width + 2 * _GAP, _TITLE + 2 * _GAP))
    return page
