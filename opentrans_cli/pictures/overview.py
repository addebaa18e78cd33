"""Many images side by side: one row per photo, one column per kind of picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from opentrans_cli.pictures.legend import INK, PAPER, LegendItem, font_of, legend_panel

Picture = Image.Image | NDArray[np.uint8]

GAP = 8
BLANK = (240, 241, 243)


def overview(
    rows: Sequence[Mapping[str, Picture]],
    columns: Sequence[str],
    *,
    cell: int = 192,
    legend: Sequence[LegendItem] = (),
) -> Image.Image:
    """A grid with the names of `columns` on top and one line of pictures per row.

    Each picture, PIL or uint8 (H, W, 3), is fitted into `cell` x `cell` pixels; a row may lack a column, whose place
    stays blank. `legend` stands below the grid. ValueError for a row with an unknown column.
    """
    if unknown := {name for row in rows for name in row} - set(columns):
        raise ValueError(f"pictures without a column: {sorted(unknown)}")
    fitted = [{name: _fitted(picture, cell) for name, picture in row.items()} for row in rows]
    font = font_of(max(13, cell // 13))
    grid = _grid(fitted, columns, cell=cell, font=font)
    if not legend:
        return grid
    strip = legend_panel(legend, font_size=int(font.size), width=grid.width)
    page = Image.new("RGB", (max(grid.width, strip.width), grid.height + strip.height), PAPER)
    page.paste(grid, (0, 0))
    page.paste(strip, (0, grid.height))
    return page


def _grid(
    rows: Sequence[Mapping[str, Image.Image]], columns: Sequence[str], *, cell: int, font: ImageFont.FreeTypeFont
) -> Image.Image:
    heights = [max((picture.height for picture in row.values()), default=cell) for row in rows]
    header = round(font.size * 1.9)
    corners = [GAP + number * (cell + GAP) for number in range(len(columns))]
    size = (GAP + len(columns) * (cell + GAP), header + sum(heights) + GAP * len(rows))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for x, name in zip(corners, columns, strict=True):
        draw.text((x + cell // 2, header // 2), name, fill=INK, font=font, anchor="mm")
    y = header
    for row, tall in zip(rows, heights, strict=True):
        for x, name in zip(corners, columns, strict=True):
            if (picture := row.get(name)) is None:
                draw.rectangle((x, y, x + cell - 1, y + tall - 1), fill=BLANK)
            else:
                page.paste(picture, (x + (cell - picture.width) // 2, y + (tall - picture.height) // 2))
        y += tall + GAP
    return page


def _fitted(picture: Picture, cell: int) -> Image.Image:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return image.resize(size, method) if size != image.size else image
