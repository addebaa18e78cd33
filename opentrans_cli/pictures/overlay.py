"""One image under its label map, with a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from opentrans_cli.pictures.legend import PAPER, LegendItem, class_shares, legend_panel, percentage

SMALLEST_WIDTH = 640
LEGIBLE_SIDE = 480
"""Images are enlarged by a whole number until their longer side has this many pixels."""


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
    known = (label_map >= 0) & (label_map < len(colours))
    tint = colours.astype(np.int32)[np.where(known, label_map, 0)]
    weight = round(alpha * 256)
    mixed = (image.astype(np.int32) * (256 - weight) + tint * weight + 128) >> 8
    picture = np.where(known[..., None], mixed, image).astype(np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)
    picture[_contours(label_map.repeat(factor, axis=0).repeat(factor, axis=1))] = PAPER
    return picture


def overlay(
    image: NDArray[np.uint8],
    label_map: NDArray[np.integer],
    names: Sequence[str],
    *,
    colours: NDArray[np.uint8],
    alpha: float = 0.55,
) -> Image.Image:
    """`image` (H, W, 3) tinted by `label_map` (H, W), and beside it the classes present with their share of the pixels.

    Ids that are not in `names` stay untinted and are summed up as "no class". Small images are enlarged without
    smoothing, so that the text is legible: the picture is at least 640 pixels wide. `names` and `colours` (N, 3) have
    the same length.
    """
    longer = max(label_map.shape)
    factor = max(1, -(-LEGIBLE_SIDE // longer))
    picture = Image.fromarray(paint(image, label_map, colours=colours, alpha=alpha, factor=factor))
    items = [
        LegendItem(entry.name, _rgb(colours[entry.index]), percentage(entry.share))
        for entry in class_shares(label_map, names)
    ]
    rest = np.count_nonzero((label_map < 0) | (label_map >= len(names))) / label_map.size
    if rest:
        items.append(LegendItem("no class", None, percentage(rest)))
    panel = legend_panel(items, font_size=max(15, longer * factor // 40), height=picture.height)
    width = max(SMALLEST_WIDTH, picture.width + panel.width)
    page = Image.new("RGB", (width, max(picture.height, panel.height)), PAPER)
    page.paste(picture, (0, 0))
    page.paste(panel, (picture.width, 0))
    return page


def _contours(label_map: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour belongs to another segment."""
    edges = np.zeros(label_map.shape, dtype=bool)
    edges[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
    edges[:-1] |= label_map[:-1] != label_map[1:]
    return edges


def _rgb(colour: NDArray[np.uint8]) -> tuple[int, int, int]:
    return int(colour[0]), int(colour[1]), int(colour[2])
