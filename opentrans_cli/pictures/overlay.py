"""One image under its label map: words on the regions, and a legend beside it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from opentrans_cli.pictures.legend import (
    INK,
    PAPER,
    LegendItem,
    class_shares,
    font_of,
    legend_panel,
    percentage,
    shortened,
)

SMALLEST_WIDTH = 640
_LEAST_ROOM = 0.45
"""A name is written if this share of its width and height lies inside its region; on a ring none fits wholly."""
_LOOKED_AT = 320
"""Places for names are looked for among about so many rows or columns, however large the image is."""
_BAND = 256
"""Rows that are tinted at a time, so that a large picture needs little more memory than itself."""
LEGIBLE_SIDE = 480
"""Images are enlarged by a whole number until their longer side has this many pixels."""

NO_CLASS = "no class"
"""What a legend calls pixels whose id has no name."""


def paint(
    image: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    *,
    colours: NDArray[np.uint8],
    alpha: float = 0.55,
    factor: int = 1,
) -> NDArray[np.uint8]:
    """`image` (H, W, 3) tinted by class and enlarged `factor` times, uint8 (H*factor, W*factor, 3).

    `alpha` in [0, 1] is the share of the class colour. Segments are separated by thin white lines. Pixels whose id has
    no row in `colours` (N, 3) keep the colours of the image.
    """
    weight = round(alpha * 256)
    # One more row for pixels without a class. Of 16 bits, as 255 * 256 + 128 has, and not of 32: half the time.
    tint = np.pad(colours.astype(np.uint16) * np.uint16(weight) + np.uint16(128), ((0, 1), (0, 0)))
    picture = np.empty_like(image)
    for top in range(0, len(image), _BAND):
        rows = slice(top, top + _BAND)
        known = (label_map[rows] >= 0) & (label_map[rows] < len(colours))
        mixed = image[rows] * np.uint16(256 - weight)
        mixed += tint[np.where(known, label_map[rows], len(colours))]
        picture[rows] = mixed >> 8
        if not known.all():
            picture[rows][~known] = image[rows][~known]
    if factor > 1:
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        label_map = label_map.repeat(factor, axis=0).repeat(factor, axis=1)
    picture[_contours(label_map)] = PAPER
    return picture


def overlay(
    image: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    names: Sequence[str],
    *,
    colours: NDArray[np.uint8],
    alpha: float = 0.55,
    rest: str = NO_CLASS,
) -> Image.Image:
    """`image` (H, W, 3) tinted by `label_map` (H, W), with words, and beside it the classes with their share of pixels.

    Ids that are not in `names` stay untinted and are summed up as `rest`. Small images are enlarged without
    smoothing, so that the text is legible: the picture is at least 640 pixels wide. `names` and `colours` (N, 3) have
    the same length.
    """
    longer = max(label_map.shape)
    factor = max(1, -(-LEGIBLE_SIDE // longer))
    size = max(15, longer * factor // 40)
    painted = paint(image, label_map, colours=colours, alpha=alpha, factor=factor)
    picture = labelled(painted, label_map, names, size=size)
    items = [
        LegendItem(entry.name, _rgb(colours[entry.index]), percentage(entry.share))
        for entry in class_shares(label_map, names)
    ]
    unknown = np.count_nonzero((label_map < 0) | (label_map >= len(names))) / label_map.size
    if unknown:
        items.append(LegendItem(rest, None, percentage(unknown)))
    panel = legend_panel(items, font_size=size, height=picture.height)
    width = max(SMALLEST_WIDTH, picture.width + panel.width)
    page = Image.new("RGB", (width, max(picture.height, panel.height)), PAPER)
    page.paste(picture, (0, 0))
    page.paste(panel, (picture.width, 0))
    return page


def labelled(
    painted: NDArray[np.uint8], label_map: NDArray[np.integer], names: Sequence[str], *, size: int
) -> Image.Image:
    """`painted`, an image as `paint` gives it of `label_map` (H, W), with the name of each class in letters of `size`.

    A name stands once, where it fits and is farthest from other classes, so that it is not read as the name of one of
    these. It is left out where there is hardly any room, or where the name of a larger class stands.
    """
    picture, font = Image.fromarray(painted), font_of(size)
    draw, entries = ImageDraw.Draw(picture), class_shares(label_map, names)
    step = max(1, max(label_map.shape) // _LOOKED_AT)
    factor = step * (painted.shape[0] // label_map.shape[0])
    label_map = label_map[::step, ::step]
    across, down, around = _room(label_map, axis=1), _room(label_map, axis=0), _depth(label_map)
    boxes: list[tuple[float, float, float, float]] = []
    for entry in entries:
        text = shortened(entry.name)
        width = font.getlength(text)
        fit = np.minimum(across * (2 * factor / width), down * (2 * factor / size))
        fit[label_map != entry.index] = 0
        if fit.max() < _LEAST_ROOM:
            continue
        place = np.where(fit >= min(fit.max(), 1), around + 0.01 * (across + down), 0).argmax()
        row, column = np.unravel_index(int(place), fit.shape)
        half = min(int(width / 2) + 4, picture.width // 2)
        x = int(np.clip((column + 0.5) * factor, half, picture.width - half))
        y = int(np.clip((row + 0.5) * factor, size, picture.height - size))
        rim = max(2, size // 7)
        box = draw.textbbox((x, y), text, font=font, anchor="mm", stroke_width=rim)
        if any(_overlap(box, other) for other in boxes):
            continue
        boxes.append(box)
        draw.text((x, y), text, fill=INK, font=font, anchor="mm", stroke_width=rim, stroke_fill=PAPER)
    return picture


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _room(label_map: NDArray[np.integer], *, axis: int) -> NDArray[np.float64]:
    """Distance in pixels from the middle of each pixel to the nearer end of its segment along `axis`, (H, W)."""
    lines = np.moveaxis(label_map, axis, -1)
    place = np.arange(lines.shape[-1])
    changes = np.ones((lines.shape[0], lines.shape[1] + 1), dtype=bool)
    changes[:, 1:-1] = lines[:, 1:] != lines[:, :-1]
    starts = np.maximum.accumulate(np.where(changes[:, :-1], place, 0), axis=1)
    ends = np.minimum.accumulate(np.where(changes[:, 1:], place + 1, len(place))[:, ::-1], axis=1)[:, ::-1]
    return np.moveaxis(np.minimum(place + 0.5 - starts, ends - place - 0.5), -1, axis)


def _depth(label_map: NDArray[np.integer]) -> NDArray[np.int64]:
    """By pixel how many steps, diagonal ones too, lead past the nearest edge of a segment or of the map, (H, W)."""
    edges = _contours(label_map)
    edges[1:] |= label_map[1:] != label_map[:-1]
    edges[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    depth = np.pad(np.where(edges, 1, max(label_map.shape)), 1)
    # Two passes, each row from the row before and then along itself, give the distance everywhere.
    place = np.arange(depth.shape[1])
    for _ in range(2):
        for row in range(1, depth.shape[0]):
            above = depth[row - 1]
            nearest = np.minimum(above[1:-1], np.minimum(above[:-2], above[2:])) + 1
            depth[row, 1:-1] = np.minimum(depth[row, 1:-1], nearest)
            depth[row] = np.minimum.accumulate(depth[row] - place) + place
            depth[row] = (np.minimum.accumulate(depth[row, ::-1] - place) + place)[::-1]
        depth = depth[::-1]
    return depth[1:-1, 1:-1]


def _contours(label_map: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour belongs to another segment."""
    edges = np.zeros(label_map.shape, dtype=bool)
    edges[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
    edges[:-1] |= label_map[:-1] != label_map[1:]
    return edges


def _rgb(colour: NDArray[np.uint8]) -> tuple[int, int, int]:
    return int(colour[0]), int(colour[1]), int(colour[2])
