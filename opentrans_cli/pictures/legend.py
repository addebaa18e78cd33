"""The classes a label map shows, and a panel that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

INK = (32, 36, 42)
MUTED = (110, 116, 124)
PAPER = (255, 255, 255)

RGB = tuple[int, int, int]

LONGEST_NAME = 28
"""Longer class names are cut, since some published ones fill half a line."""


@dataclass(frozen=True)
class ClassShare:
    """A class and how much of a label map it fills."""

    index: int  # class index
    name: str
    share: float  # of all pixels, in (0, 1]


@dataclass(frozen=True)
class LegendItem:
    """One line of a legend: a colour and its meaning."""

    text: str
    colour: RGB | None  # None = an empty frame, for pixels without a class
    note: str = ""  # printed in grey at the right edge, such as a percentage


def class_shares(label_map: NDArray[np.integer], names: Sequence[str]) -> tuple[ClassShare, ...]:
    """The classes that occur in `label_map` (H, W), largest area first; ids without a name are left out."""
    ids, counts = np.unique(label_map, return_counts=True)
    shares = [
        ClassShare(int(index), names[index], int(count) / label_map.size)
        for index, count in zip(ids, counts, strict=True)
        if 0 <= index < len(names)
    ]
    return tuple(sorted(shares, key=lambda entry: (-entry.share, entry.index)))


def percentage(share: float) -> str:
    """`share` of [0, 1] for a legend: one decimal below 10 %, "<0.1 %" instead of a wrong zero."""
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.0995 else f"{share:.0%}".replace("%", " %")


def font_of(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that comes with Pillow, so that pictures are the same everywhere."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow was built without FreeType")
    return font


def legend_panel(
    items: Sequence[LegendItem], *, font_size: int, height: int | None = None, width: int | None = None
) -> Image.Image:
    """`items` in as many columns as a panel of at most `height`, or else of `width`, pixels needs.

    The panel is as large as its text, so it may be wider or lower than asked; one item always fits.
    """
    font = font_of(font_size)
    row, gap = round(font_size * 1.6), font_size
    texts = [shortened(item.text) for item in items]
    notes = max((int(font.getlength(item.note)) for item in items), default=0)
    widest = max((int(font.getlength(text)) for text in texts), default=0)
    cell = round(font_size * 1.5) + widest + (notes + gap if notes else 0) + gap
    rows = (height - gap) // row if height is not None else -(-len(items) // max(1, ((width or 0) - gap) // cell))
    rows = max(1, min(rows, len(items)))
    columns = -(-len(items) // rows)
    panel = Image.new("RGB", (gap + columns * cell, rows * row + gap), PAPER)
    draw = ImageDraw.Draw(panel)
    for place, (item, text) in enumerate(zip(items, texts, strict=True)):
        x, y = gap + place // rows * cell, gap // 2 + place % rows * row
        box = (x, y + row // 2 - font_size // 2, x + font_size, y + row // 2 - font_size // 2 + font_size)
        draw.rectangle(box, fill=item.colour or PAPER, outline=None if item.colour else MUTED)
        middle = y + row // 2
        draw.text((x + round(font_size * 1.5), middle), text, fill=INK, font=font, anchor="lm")
        draw.text((x + cell - gap, middle), item.note, fill=MUTED, font=font, anchor="rm")
    return panel


def shortened(text: str) -> str:
    """A class name as pictures show it, at most LONGEST_NAME characters."""
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3].rstrip() + "..."
