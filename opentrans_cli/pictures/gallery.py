"""A page of labelled pictures: photo, label map, and the classes with their shares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opentrans_cli.pictures.legend import percentage
from opentrans_cli.pictures.overlay import paint
from opentrans_cli.pictures.page import BarCell, ColourCell, Page, PagePicture
from opentrans_cli.pictures.palette import class_colours
from opentrans_cli.pictures.thumbnail import page_picture, small_labels, small_photo

MOST_PICTURES = 1000
"""More are not shown, and the page says so: it would no longer open on a phone."""
_SIDES = ((48, 480), (240, 320), (MOST_PICTURES, 192))
"""Up to how many pictures, and the longer side of each in pixels: a page has some 15 MB at most."""
_MOST_CLASSES = 24  # told of each picture

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class GalleryItem:
    """One labelled picture."""

    name: str
    photo: Path | None  # None: not known; the overlay is shown alone
    label_map: Path  # one channel of ids
    overlay: Path
    photo_link: str = ""  # addresses of the whole files
    overlay_link: str = ""
    classes: Mapping[str, float] = field(default_factory=dict)  # name -> share of the pixels, in [0, 1]


class GalleryColours:
    """Colours of the classes `names`, by name and by the ids that label maps have."""

    def __init__(self, names: Sequence[str], ids: Sequence[int]) -> None:
        self._rows = class_colours(names)
        self._by_name = dict(zip(names, self._rows.tolist(), strict=True))
        self._index = np.full(max(ids, default=0) + 1, -1)
        self._index[list(ids)] = np.arange(len(ids))

    def of(self, name: str) -> RGB | None:
        """The colour of a class; None for a name that is no class."""
        found = self._by_name.get(name)
        return None if found is None else (found[0], found[1], found[2])

    def painted(self, photo: NDArray[np.uint8], ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """`photo` (H, W, 3) tinted by the class of each pixel, whose `ids` are (H, W)."""
        known = (ids >= 0) & (ids < len(self._index))
        return paint(photo, np.where(known, self._index[np.where(known, ids, 0)], -1), colours=self._rows)


def add_gallery(page: Page, items: Sequence[GalleryItem], colours: GalleryColours) -> tuple[str, ...]:
    """Add `items` to `page`: first all classes with their shares, then a card for each picture, in the order given.

    Every picture leads to its whole file. Returns what could not be shown, one line each.
    """
    _legend(page, items, colours)
    shown = items[:MOST_PICTURES]
    if len(shown) < len(items):
        page.note(f"The first {len(shown):,} of {len(items):,} pictures are shown.")
    side = side_of(len(shown))
    faults: list[str] = []
    page.heading("Pictures")
    page.cards([(item.name, list(_pictures(item, colours, side, faults)), _chips(item, colours)) for item in shown])
    return tuple(faults)


def side_of(count: int) -> int:
    """The longer side in pixels of each of `count` pictures on a page."""
    return next((side for most, side in _SIDES if count <= most), _SIDES[-1][1])


def _legend(page: Page, items: Sequence[GalleryItem], colours: GalleryColours) -> None:
    """The classes that any picture shows, the largest first."""
    shares: defaultdict[str, float] = defaultdict(float)
    holders: defaultdict[str, int] = defaultdict(int)
    for item in items:
        for name, share in item.classes.items():
            shares[name] += share / len(items)
            holders[name] += 1
    page.heading("Classes")
    page.table(
        ["class", "mean share of a picture", "pictures"],
        [
            [ColourCell(name, colours.of(name)), BarCell(percentage(share), share), f"{holders[name]:,}"]
            for name, share in sorted(shares.items(), key=lambda pair: -pair[1])
        ],
    )


def _pictures(item: GalleryItem, colours: GalleryColours, side: int, faults: list[str]) -> Iterator[PagePicture]:
    shown = ", ".join(f"{name} {percentage(share)}" for name, share in list(item.classes.items())[:_MOST_CLASSES])
    labelled = f"{item.name}, labelled: {shown}"
    try:
        if item.photo is None:
            yield page_picture(small_photo(item.overlay, 2 * side), "overlay", alt=labelled, link=item.overlay_link)
            return
        photo = small_photo(item.photo, side)
        yield page_picture(photo, "photo", alt=f"photo {item.name}", link=item.photo_link)
        ids = small_labels(item.label_map, photo.size)
        yield page_picture(colours.painted(np.asarray(photo), ids), "labels", alt=labelled, link=item.overlay_link)
    except OSError as error:
        faults.append(f"{item.name}: {error}")


def _chips(item: GalleryItem, colours: GalleryColours) -> list[ColourCell]:
    classes = sorted(item.classes.items(), key=lambda pair: -pair[1])
    chips = [ColourCell(f"{name} {percentage(share)}", colours.of(name)) for name, share in classes[:_MOST_CLASSES]]
    if rest := classes[_MOST_CLASSES:]:
        chips.append(ColourCell(f"{len(rest)} more {percentage(sum(share for _, share in rest))}", None))
    return chips
